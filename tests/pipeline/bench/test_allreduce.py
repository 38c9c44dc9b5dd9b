"""The all-reduce benchmark runs two real ranks and judges the model by what they took; no timing is asserted."""

import pytest

from pipeline.bench import allreduce
from pipeline.errors import InputError


def test_two_ranks_time_messages_and_steps() -> None:
    result = allreduce.command("tiny", clips=1, resolution=32, rounds=1)
    assert [row["kib"] for row in result["messages"]] == [size // 1024 for size in allreduce.SIZES]
    assert result["bandwidth_gb_per_s"] > 0
    assert all(row["measured_ms"] > 0 and row["predicted_ms"] > 0 for row in result["steps"])


def test_predicted_steps_are_put_together_from_the_pieces() -> None:
    pieces = allreduce.Pieces(3.0, 0.5)
    # 250 kB/s and no latency: 1 MB of gradients (one bucket) shows for 4 s after backward.
    times = allreduce.Times(
        250_000, {1000: 0.004, 1_000_000: 4.0}, pieces, allreduce.Pieces(4.0, 0.5), double=6.0, exchanging=7.5
    )
    one, two, beside = allreduce._judged(times)["steps"]
    assert (one["predicted_ms"], one["error_percent"]) == (6500, pytest.approx(8.3))
    assert two["predicted_ms"] == pytest.approx(7500, rel=1e-3)
    assert beside["predicted_ms"] == pytest.approx(8500, rel=1e-3)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="clips = 0"):
        allreduce.command(clips=0)
    with pytest.raises(InputError, match="size = 'giant'"):
        allreduce.command("giant")
