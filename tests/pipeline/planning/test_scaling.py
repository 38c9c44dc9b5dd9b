"""The step-time model against numbers worked out by hand, the published epochs, and its command."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import InputError
from pipeline.planning import scaling as model
from pipeline.planning.step_time import MIB, Fabric, Work, buckets, exposed_seconds, fit_line, step_time


def test_a_ring_sends_the_data_almost_twice_and_waits_for_every_hop() -> None:
    fabric = Fabric(link=1e9, link_latency=1e-3)
    # 4 ranks: 2 * 3/4 of 1 GB at 1 GB/s, and 6 hops of 1 ms.
    assert fabric.all_reduce(1e9, 4) == pytest.approx(1.5 + 0.006)
    assert fabric.all_reduce(1e9, 1) == 0.0


def test_between_machines_the_slower_network_counts_and_the_latency_grows_with_their_logarithm() -> None:
    fabric = Fabric(link=1e9, link_latency=1e-3, network=0.5e9, network_latency=10e-3, per_machine=8)
    # 2 machines, 16 ranks: 15/8 of 1 GB at 0.5 GB/s; tree: 2 * (7 + 10) ms against a ring's 15/8 * (14 + 20) ms.
    assert fabric.all_reduce(1e9, 16) == pytest.approx(3.75 + 0.034)
    # 16 machines: four levels instead of one.
    assert fabric.all_reduce(0, 128) == pytest.approx(2 * (0.007 + 4 * 0.010))


def test_gradients_leave_in_ddps_buckets() -> None:
    assert buckets(60 * MIB) == [MIB, 25 * MIB, 25 * MIB, 9 * MIB]
    assert buckets(0.5 * MIB) == [0.5 * MIB]
    assert buckets(26 * MIB) == [MIB, 25 * MIB]


def test_backward_hides_all_but_the_last_bucket_where_the_exchange_is_fast() -> None:
    # Full at 1, 2, 3, 4 s; each takes 0.5 s.
    assert exposed_seconds([1, 1, 1, 1], 4.0, lambda _: 0.5) == pytest.approx(0.5)
    # 2 s each: the first begins at 1 s, all end at 9 s, 5 s after backward.
    assert exposed_seconds([1, 1, 1, 1], 4.0, lambda _: 2.0) == pytest.approx(5.0)
    assert exposed_seconds([3, 1], 4.0, lambda size: size) == pytest.approx(3.0)


def test_a_step_is_the_longer_of_loader_and_compute_plus_what_shows_of_the_exchange() -> None:
    fabric = Fabric(link=MIB, link_latency=0.0)
    # 2 ranks, one bucket of 1 MiB at 1 MiB/s: 1 s after backward, and 12 bytes of verdict.
    work = Work(arithmetic=3.0, update=0.5, loader=2.0, gradients=MIB)
    result = step_time(work, fabric, 2)
    assert result.total == pytest.approx(4.5, abs=1e-3)
    assert (result.limit, result.compute) == ("compute", 3.5)
    waiting = step_time(Work(3.0, 0.5, 5.0, MIB), fabric, 2)
    assert waiting.total == pytest.approx(6.0, abs=1e-3)
    assert waiting.limit == "loader"
    assert step_time(Work(3.0, 0.5, 2.0, 9 * MIB), fabric, 2).limit == "communication"
    assert step_time(work, fabric, 1).total == 3.5


def test_only_the_last_micro_steps_backward_hides_the_exchange() -> None:
    fabric = Fabric(link=MIB, link_latency=0.0)
    whole, parts = (step_time(Work(3.0, 0.0, 0.0, 26 * MIB, n), fabric, 2).exposed for n in (1, 3))
    # Backward takes 2 s: 1 s for the first bucket is over before the other, of 25 s, is full. Or it takes 2/3 s: the
    # first leaves at 1/26 of that and holds the other up.
    assert whole == pytest.approx(25, abs=1e-3)
    assert parts == pytest.approx(26 + 2 / 78 - 2 / 3, abs=1e-3)


def test_a_line_is_found_again() -> None:
    sizes = [1e3, 1e5, 1e7, 1e8]
    latency, bandwidth = fit_line(sizes, [2e-4 + size / 3e9 for size in sizes])
    assert latency == pytest.approx(2e-4)
    assert bandwidth == pytest.approx(3e9)


def test_the_published_recipe_scales_as_worked_out_by_hand() -> None:
    result = model.scaling("k400", "h100", (8, 128), mfu=0.5, store="raw")
    eight, many = result["rows"]
    # 256 clips of 19.78 G multiply-adds, 6 FLOP each, at half of 989.4 TFLOP/s; 94.2 M x 28 bytes at 3.35 TB/s.
    assert eight["compute_ms"] == pytest.approx(1e3 * (256 * 6 * 19.78e9 / 494.7e12 + 94.2e6 * 28 / 3.35e12), rel=1e-3)
    assert eight["loader_ms"] == pytest.approx(256 * 1e3 / 3271 / 12, abs=0.01)
    assert eight["limit"] == "compute"
    assert eight["clips_per_second"] == pytest.approx(2048e3 / eight["step_ms"], rel=1e-3)
    assert 0.9 < eight["efficiency"] <= 1
    assert many["efficiency"] < eight["efficiency"]
    assert model.scaling("k400", "h100", (8,), mfu=0.5, store="jpeg")["rows"][0]["limit"] == "loader"  # 227 > 62 ms


def test_a_share_that_was_measured_is_taken_where_none_is_given(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    about = {"device": "NVIDIA H100 80GB HBM3", "date": "2026-01-01", "torch": "2.11"}
    file.write_text(json.dumps({**about, "shares": {"pretrain base eager": 0.5, "pretrain base compiled": 0.5}}))
    measured = model.scaling("k400", "h100", (8,), calibration=file)
    assert measured["rows"] == model.scaling("k400", "h100", (8,), mfu=0.5)["rows"]
    assert "0.500 of 989 TFLOP/s" in measured["assumptions"][0]
    assert "measured on NVIDIA H100" in measured["assumptions"][0]
    assumed = model.scaling("k400", "a100-80", (8,), calibration=file)
    assert assumed["assumptions"][0].startswith("0.300"), "another GPU's share says nothing of this one"
    file.write_text(json.dumps({**about, "shares": {"pretrain base eager": True}}))
    with pytest.raises(InputError, match="shares outside"):
        model.scaling("k400", "h100", (8,), calibration=file)


def test_one_share_of_the_peak_does_not_explain_both_published_epochs() -> None:
    rows = {row["recipe"]: row for row in model.published()}
    # 240,258 clips x 6 FLOP x 19.78 G over 498 s of 8 x 154.8 TFLOP/s; the same for 35.4 G and 1122 s.
    assert rows["k400"]["implied_mfu"] == pytest.approx(0.0462, abs=0.0005)
    assert rows["videomae_k400"]["implied_mfu"] == pytest.approx(0.0367, abs=0.0005)
    assert rows["k400"]["error_percent"] == pytest.approx(25.8, abs=1)
    assert rows["videomae_k400"]["error_percent"] == pytest.approx(-20.5, abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "cpu"], "gpu = 'cpu', expected one of h100"),
        (["--gpus", "8,7"], "gpus = 7: the global batch of 2048"),
        (["--gpus", "eight"], "expected whole numbers"),
        (["--mfu", "30"], "mfu = 30, expected above 0"),
        (["--store", "png"], "store = 'png', expected one of jpeg, raw"),
    ],
)
def test_what_cannot_be_predicted_is_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["scaling", "--recipe", "k400", *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_the_command_prints_json() -> None:
    result = CliRunner().invoke(app, ["scaling", "--recipe", "k400", "--gpus", "8", "--json"])
    assert result.exit_code == 0
    assert [row["gpus"] for row in json.loads(result.stdout)["rows"]] == [8]
