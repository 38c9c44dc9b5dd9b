"""Hours of the published benchmarks by strategy: the planner's, word for word in docs/scaling.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import FINETUNING, PRETRAINING
from pipeline.planning.by_strategy import ByStrategy, by_strategy, markdown
from pipeline.planning.scaling import scaling


@pytest.fixture(scope="module")
def found() -> ByStrategy:
    return by_strategy()


def test_docs_hold_what_the_command_prints(root: Path, found: ByStrategy) -> None:
    page = (root / "docs/scaling.md").read_text()
    assert markdown(found) in page, "python -m pipeline.cli scaling --strategies"
    assert markdown(by_strategy(store="raw")) in page, "python -m pipeline.cli scaling --strategies --store raw"


def test_every_strategy_is_there_for_each_benchmark_with_its_recipes_videos_and_epochs(found: ByStrategy) -> None:
    for stage, names in (("pretrain", PRETRAINING), ("finetune", FINETUNING)):
        rows = [row for row in found["rows"] if row["stage"] == stage]
        assert {(row["strategy"], row["benchmark"]) for row in rows} == {
            (name, recipe) for name in names for recipe in ("ucf101", "k400", "ssv2", "oscc")
        }
    k400 = next(row for row in found["rows"] if (row["strategy"], row["benchmark"]) == ("everest", "k400"))
    assert (k400["videos"], k400["epochs"], k400["gmacs_per_clip"]) == (240_258, 800, 19.78)
    assert k400["kwh_at_most"] == pytest.approx(k400["gpu_hours"] * 0.7, abs=0.1)
    assert (k400["limit"], k400["hours_compiled"]) == ("loader", k400["hours"]), "12 cores read 1,130 clips a second"
    adamae = next(row for row in found["rows"] if (row["strategy"], row["benchmark"]) == ("adamae", "k400"))
    assert 0.7 < adamae["hours_compiled"] / adamae["hours"] < 0.8, "0.2200 and 0.2912 of the peak"


def test_everests_hours_are_those_of_the_scaling_model(found: ByStrategy) -> None:
    k400 = next(row for row in found["rows"] if (row["strategy"], row["benchmark"]) == ("everest", "k400"))
    step = scaling("k400", "h100", [8])["rows"][0]["step_ms"]
    assert k400["hours"] == pytest.approx(800 * (240_258 // 2048) * step / 3.6e6, rel=0.005)


def test_assumptions_are_named(found: ByStrategy) -> None:
    text = " ".join(found["assumptions"])
    measured = "0.2200 of the peak, measured on NVIDIA H100"
    for words in (
        measured,
        "no run on several GPUs was made",
        "the loader keeps up",
        "not at equal cost",
        "upper bound",
    ):
        assert words in text
    rows = [row for row in found["rows"] if row["strategy"].startswith("rlt")]
    assert all(row["upper_bound"] and row["hours_compiled"] is None for row in rows)


def test_more_gpus_than_a_machine_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"16 x 'h100': expected 1 to 8 of h100.*Cure"):
        by_strategy("h100", 16)
