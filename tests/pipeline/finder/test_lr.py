"""`everest lr`: what a curve supports, and a real sweep that leaves the run's state alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import small_training

from pipeline.errors import InputError
from pipeline.finder.command import find
from pipeline.finder.rule import RULE, has_diverged, smoothed, suggest
from pipeline.params import check_params
from pipeline.params.write import write_params

RATES = list(np.logspace(-5, 0, 100))


def curve(lowest: float, noise: float = 0.002, depth: float = 0.3) -> list[float]:
    """A loss that falls until `lowest` and rises behind it, in powers of ten."""
    rng = np.random.default_rng(0)
    place = np.log10(RATES) - math.log10(lowest)
    loss = 1 - depth * np.exp(-(np.minimum(place, 0) ** 2)) + np.maximum(place, 0) ** 2
    return list(loss + noise * rng.standard_normal(len(RATES)))


def test_a_third_of_the_rate_of_the_lowest_loss_is_suggested_with_its_rule() -> None:
    said = suggest(RATES, curve(1e-2), current=3e-2)
    assert said.lowest == pytest.approx(1.3e-2, rel=0.35)  # the smoothed loss is a little late
    assert said.rate == pytest.approx(said.lowest / 3, rel=0.06)
    assert said.steepest < said.lowest
    assert said.why.startswith(RULE)
    assert "times as high" in said.why


def test_no_rate_is_suggested_where_the_curve_supports_none() -> None:
    flat = suggest(RATES[:60], [1.0] * 60, 1e-3)
    assert flat.rate is None
    assert "nothing was learned" in flat.why
    falling = suggest(RATES, list(1 - np.linspace(0, 0.5, 100)), 1e-3)
    assert falling.rate is None
    assert "a higher --high" in falling.why
    broken = suggest(RATES[:3], [1.0, 2.0, math.nan], 1e-3)
    assert broken.rate is None
    assert "--low must be smaller" in broken.why


def test_noise_alone_suggests_nothing() -> None:
    found = [suggest(RATES, list(1 + 0.02 * np.random.default_rng(s).standard_normal(100)), 1e-3) for s in range(20)]
    assert sum(said.rate is not None for said in found) <= 2


def test_smoothing_has_no_bias_and_divergence_is_seen() -> None:
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert not has_diverged([1.0, 0.9, 0.8])
    assert has_diverged([1.0, math.nan])
    assert has_diverged([1.0] + [3.0] * 10)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    params = small_training.ready(compute__ranks=2, compute__device="cpu")
    write_params(tmp_path / "params.yaml", params)
    return tmp_path


def test_a_sweep_of_a_real_pre_training_changes_nothing_but_its_own_folder(project: Path) -> None:
    def rest() -> dict[str, bytes]:
        files = [path for path in project.rglob("*") if path.is_file() and "outputs/lr" not in str(path)]
        return {str(path): path.read_bytes() for path in files}

    before = rest()
    found = find("pretrain", None, 30, 1e-4, 10.0, Path("outputs/lr"))
    assert rest() == before
    assert 20 <= found["steps"] <= 30
    rates = [rate for rate, _ in found["points"]]
    assert rates[0] == pytest.approx(1e-4)
    assert rates == sorted(rates)
    assert math.log(rates[1] / rates[0]) == pytest.approx(math.log(1e5) / 29)
    assert found["points"][0][1] == pytest.approx(1.05, abs=0.2)
    assert found["key"] == "pretrain.base_lr"
    assert Path(found["picture"]).read_text().startswith("<?xml")
    assert json.loads((project / "outputs/lr/pretrain.json").read_text())["points"] == found["points"]
    again = find("pretrain", None, 30, 1e-4, 10.0, Path("outputs/lr"))
    assert again["points"] == found["points"]


def test_a_fine_tuning_is_swept_as_on_all_its_ranks_whatever_the_batches_of_other_benchmarks(project: Path) -> None:
    content = small_training.ready(compute__ranks=2, compute__device="cpu", finetune__init="scratch").model_dump()
    content["benchmarks"]["odd"] = content["benchmarks"]["small"] | {"finetune": {"batch": 3, "base_lr": 0.02}}
    write_params(project / "params.yaml", check_params(content))
    found = find("finetune", "small", 20, 1e-5, 1e-3, Path("outputs/lr"))
    assert (found["stage"], found["key"], found["steps"]) == ("finetune small", "finetune.base_lr", 20)
    assert all(math.isfinite(loss) for _, loss in found["points"])
    assert (project / "outputs/lr/finetune-small.json").is_file()
    content["benchmarks"]["small"]["finetune"] = {"base_lr": 0.01}
    write_params(project / "params.yaml", check_params(content))
    found = find("finetune", "small", 20, 1e-5, 1e-3, Path("outputs/lr"))
    assert (found["key"], found["now"]) == ("benchmarks.small.finetune.base_lr", 0.01)


def test_wrong_questions_are_refused_with_their_cure(project: Path) -> None:
    for stage, benchmark, steps, low, high, words in [
        ("evaluate", None, 100, 1e-5, 1.0, "expected pretrain or finetune"),
        ("pretrain", None, 201, 1e-5, 1.0, "expected 20 to 200"),
        ("pretrain", None, 100, 1.0, 1e-5, "0 < low < high"),
        ("finetune", None, 100, 1e-5, 1.0, "needs a benchmark"),
        ("finetune", "absent", 100, 1e-5, 1.0, "absent"),
        ("pretrain", "small", 100, 1e-5, 1.0, "not one benchmark"),
    ]:
        with pytest.raises(InputError, match=words):
            find(stage, benchmark, steps, low, high, Path("outputs/lr"))
