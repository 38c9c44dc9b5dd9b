"""The early verdict: its interval, its rule, what is kept and saved, and that no equal is stopped by chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import small_benchmark

from pipeline import layout
from pipeline.experiments import cells, compare, slices
from pipeline.params import Params, declared, with_overrides
from pipeline.params.write import write_params
from pipeline.planning.equal import Trial, plan
from pipeline.report import comparison
from pipeline.report.page import html
from pipeline.report.verdict_section import verdict_section
from pipeline.verdict import probe
from pipeline.verdict.interval import mean_interval
from pipeline.verdict.record import CAUTION, sentences
from pipeline.verdict.rule import Floats, Scores, judge, spent_alpha

CLIPS = 400


def drawn(rng: np.random.Generator, share: float, seeds: int = 1) -> Floats:
    return (rng.random((seeds, CLIPS)) < share).astype(float)


def look(rng: np.random.Generator, **shares: float) -> Scores:
    return {name: {"motion": drawn(rng, share)} for name, share in shares.items()}


@pytest.mark.parametrize("mean", [0.03, 0.3, 0.5])
def test_the_interval_misses_the_mean_no_more_often_than_it_says(mean: float) -> None:
    rng = np.random.default_rng(0)
    missed, widths = 0, []
    for _ in range(100):
        low, high = mean_interval((rng.random(256) < mean).astype(float), 0.1)
        missed += not low <= mean <= high
        widths.append(high - low)
    assert missed <= 0.1 * 100
    # Not far from what a normal distribution would give.
    assert np.mean(widths) < 2 * 2 * 1.645 * np.sqrt(mean * (1 - mean) / 256)


def test_the_interval_of_differences_is_about_zero_for_equals_and_narrows_with_clips() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for clips in (100, 1600):
        gap = rng.integers(0, 2, clips).astype(float) - rng.integers(0, 2, clips)
        low, high = mean_interval(gap, 0.05, -1.0, 1.0)
        assert low < 0 < high
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6
    assert mean_interval(np.ones(400), 0.05)[0] > 0.97


def test_the_chances_of_error_of_all_looks_add_up_to_the_one_that_is_allowed() -> None:
    assert sum(spent_alpha(number, 0.95, 6) for number in range(1, 100_000)) * 6 == pytest.approx(0.05, rel=1e-4)


def test_one_that_is_far_behind_and_does_not_catch_up_is_stopped_at_the_second_look() -> None:
    rng = np.random.default_rng(2)
    looks = [look(rng, everest=0.5, tube=0.25), look(rng, everest=0.6, tube=0.28)]
    assert judge(looks[:1], 5, 0.95, ["everest"])[1] == {}
    judgements, stopped = judge(looks, 5, 0.95, ["everest"])
    assert stopped == {"tube": 2}
    last = judgements[-1]
    assert (last["strategy"], last["rival"], last["futile"]) == ("tube", "everest", True)
    assert 0.1 < last["low"] < 0.32 < last["high"]


def test_one_that_catches_up_fast_enough_to_win_goes_on() -> None:
    rng = np.random.default_rng(3)
    looks = [look(rng, everest=0.6, tube=0.2), look(rng, everest=0.62, tube=0.4)]
    judgements, stopped = judge(looks, 5, 0.95, ["everest"])
    assert stopped == {}
    assert judgements[-1]["low"] > 0
    assert judgements[-1]["reach"] > judgements[-1]["low"]


def test_the_first_strategy_and_one_that_leads_on_some_benchmark_are_never_stopped() -> None:
    rng = np.random.default_rng(4)
    looks = [look(rng, everest=0.2, tube=0.6) for _ in range(4)]
    assert judge(looks, 5, 0.95, ["everest"])[1] == {}
    both: list[Scores] = [
        {
            "everest": {"motion": drawn(rng, 0.7), "state": drawn(rng, 0.3)},
            "tube": {"motion": drawn(rng, 0.3), "state": drawn(rng, 0.7)},
        }
        for _ in range(4)
    ]
    assert judge(both, 5, 0.95)[1] == {}


def test_equals_are_stopped_by_chance_no_more_often_than_allowed() -> None:
    rng = np.random.default_rng(5)
    wrong = sum(bool(judge([look(rng, a=0.4, b=0.4) for _ in range(4)], 5, 0.9)[1]) for _ in range(40))
    assert wrong <= 4


@pytest.fixture
def race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Params, list[Trial]]:
    """A comparison of three strategies whose pre-trainings are made up: only the driver is real."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVEREST_CELLS", str(tmp_path / "cells"))
    params = small_benchmark.params(
        compare__strategies=["everest", "tube", "random", "scratch"], compare__seeds=[0, 1], compare__stop="futile",
        pretrain__epochs=10, compute__device="cuda", compute__ranks=4, compute__eur_per_gpu_hour=2.0,
    )  # fmt: skip
    trials = plan(params)
    monkeypatch.setattr(comparison, "corpus_size", lambda name: 1000)
    return params, trials


def work_of(trial: Trial) -> Path:
    return cells.cell(trial) / layout.work_dir("pretrain", None, declared.work_key("pretrain", None, trial.params, {}))


def _pretend(monkeypatch: pytest.MonkeyPatch, shares: dict[str, float]) -> list[tuple[str, float]]:
    """Slices leave a work folder with a history; probes hit by the strategy's share."""
    ran: list[tuple[str, float]] = []

    def run_slice(trial: Trial, share: float, note: str = "", **_: object) -> bool:
        ran.append((trial.name, share))
        work = work_of(trial)
        (work / "checkpoints").mkdir(parents=True, exist_ok=True)
        (work / "length.json").write_text('{"steps": 1000}')
        (work / "history.csv").write_text("step,epoch,loss,seconds\n" + "".join(f"{n},0,1,3.6\n" for n in range(1, 9)))
        return False

    def probe_scores(params: Params, checkpoints: Path, benchmark: str) -> Floats:
        arm = next(name for name in shares if f"/{name}-seed" in str(checkpoints))
        return (np.random.default_rng(len(ran)).random(CLIPS) < shares[arm]).astype(float)

    monkeypatch.setattr(slices, "run_slice", run_slice)
    monkeypatch.setattr(probe, "probe_scores", probe_scores)
    return ran


def test_the_loser_is_left_out_and_what_it_saved_is_told(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, trials = race
    ran = _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "random": 0.2})
    monkeypatch.setattr("pipeline.budget.meter.visible", lambda: list("abcd"))  # four GPUs
    left, verdict = slices.early_verdict(params, trials)
    assert {trial.arm for trial in left} == {"everest", "tube", "scratch"}
    assert [share for name, share in ran if name == "random-seed0"] == [0.2, 0.4]
    assert [share for name, share in ran if name == "tube-seed1"] == [0.2, 0.4, 0.6, 0.8]
    (saved,) = verdict["saved"]
    random = next(trial for trial in trials if trial.arm == "random")
    assert saved["after"] == 0.4
    assert saved["tmacs"] == pytest.approx(0.6 * 2 * random.pretrain_gmacs * 1000 / 1000)
    assert saved["hours"] == pytest.approx(2 * 0.6 * 1000 * 3.6 / 3600)
    assert saved["eur"] == pytest.approx(saved["hours"] * 4 * 2.0)
    sentence, worth = sentences(verdict)
    assert worth == CAUTION
    assert "not predictive on drawn videos" in worth
    assert sentence.startswith("random was stopped after 40 % of its pre-training: its probe is 3")
    assert "at 95 % confidence over all looks. Saved: " in sentence
    page = html("t", "s", [], [verdict_section(json.loads(json.dumps(verdict)))])
    assert "40 % of its pre-training" in page
    assert "T mult-adds saved" in page


def test_without_a_gpu_no_money_is_saved(race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch) -> None:
    params, trials = race
    _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "random": 0.2})
    monkeypatch.setattr("pipeline.budget.meter.visible", list)
    (saved,) = slices.early_verdict(params, trials)[1]["saved"]
    assert saved["hours"] is not None
    assert saved["eur"] is None


def test_what_strategies_share_is_pre_trained_once_and_its_saving_is_counted_once(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, _ = race
    arms = ["tube", "everest", "everest-then-tome", "everest-tested-rlt", "random"]
    params = with_overrides(params, {"compare.strategies": arms, "compare.seeds": [0]})
    trials = plan(params)
    ran = _pretend(monkeypatch, {"tube": 0.6, "everest": 0.2, "random": 0.58})
    left, verdict = slices.early_verdict(params, trials)
    assert [trial.arm for trial in left] == ["tube", "random"], "the same probe of all three: all or none"
    assert [name for name, share in ran if share == 0.2] == ["tube-seed0", "everest-seed0", "random-seed0"]
    assert [name for name, share in ran if share == 0.6] == ["tube-seed0", "random-seed0"]
    saved = {row["strategy"]: row for row in verdict["saved"]}
    assert saved["everest"]["tmacs"] == pytest.approx(0.6 * trials[1].pretrain_gmacs)
    assert saved["everest"]["hours"] == pytest.approx(0.6 * 1000 * 3.6 / 3600)
    for name in ("everest-then-tome", "everest-tested-rlt"):
        assert (saved[name]["tmacs"], saved[name]["hours"]) == (0, 0)


def test_a_strategy_that_shares_the_first_ones_pre_training_is_not_stopped(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, _ = race
    arms = ["everest", "everest-then-tome", "tube", "random"]
    params = with_overrides(params, {"compare.strategies": arms, "compare.seeds": [0]})
    ran = _pretend(monkeypatch, {"everest": 0.2, "tube": 0.6, "random": 0.2})
    left, _ = slices.early_verdict(params, plan(params))
    assert [trial.arm for trial in left] == ["everest", "everest-then-tome", "tube"]
    assert not [name for name, _ in ran if name.startswith("everest-then-tome")]


def test_a_strategy_whose_pre_training_another_one_finished_before_stays_out_of_the_race(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, _ = race
    params = with_overrides(params, {"compare.strategies": ["tube", "random", "everest", "everest-then-tome"]})
    ran = _pretend(monkeypatch, {"tube": 0.6, "random": 0.58})
    monkeypatch.setattr(slices, "finished", lambda stage, key, folder: folder.name.startswith("everest-seed"))
    slices.early_verdict(params, plan(params))
    assert {name.split("-seed")[0] for name, _ in ran} == {"tube", "random"}


def test_a_comparison_that_was_interrupted_goes_on_with_its_decisions(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, trials = race
    ran = _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "random": 0.2})
    first = slices.early_verdict(params, trials)
    before = len(ran)
    assert slices.early_verdict(params, trials) == first
    assert len(ran) == before


def test_it_is_off_by_default_and_a_dry_run_says_when_one_may_be_stopped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = small_benchmark.params(compare__strategies=["everest", "tube", "scratch"], pretrain__epochs=10)
    assert params.compare.stop is None
    write_params(tmp_path / "params.yaml", params)
    plain = compare.command({}, dry_run=True)["trials"]
    assert all("may be stopped after epochs" not in row for row in plain)
    planned = {row["strategy"]: row for row in compare.command({"compare.stop": "futile"}, dry_run=True)["trials"]}
    column = "may be stopped after epochs"
    epochs = planned["tube"]["pre-training epochs"]
    assert planned["everest"][column] == planned["scratch"][column] == "never"
    assert planned["tube"][column] == ", ".join(f"{epochs * n / 5:.3g}" for n in (2, 3, 4))
    both = {"compare.stop": "futile", "compare.strategies": ["everest", "everest-then-tome", "tube"]}
    planned = {row["strategy"]: row for row in compare.command(both, dry_run=True)["trials"]}
    assert planned["everest-then-tome"][column] == "never", "its pre-training is the first one's"


def test_an_early_verdict_names_the_same_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    off, on = (plan(small_benchmark.params(compare__stop=stop)) for stop in (None, "futile"))
    assert [cells.cell(trial) for trial in off] == [cells.cell(trial) for trial in on]


def test_a_strategy_that_was_pre_trained_before_stays_out_of_a_race_that_goes_on(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, trials = race
    ran = _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "random": 0.2})
    monkeypatch.setattr(slices, "finished", lambda stage, key, folder: folder.name.startswith("everest-"))
    first = slices.early_verdict(params, trials)
    before = len(ran)
    assert {name.split("-seed")[0] for name, _ in ran} == {"tube", "random"}
    monkeypatch.setattr(slices, "finished", lambda *_: False)
    assert slices.early_verdict(params, trials) == first
    assert len(ran) == before


def test_pre_trainings_of_unequal_lengths_are_not_held_against_each_other(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, trials = race
    saved = {"everest": 200, "tube": 800, "random": 150}
    for trial in trials[:6]:
        work = work_of(trial)
        checkpoint = layout.checkpoint_dir(work / "checkpoints", saved[trial.arm])
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
        (work / "length.json").write_text('{"steps": 1000}')
    ran = _pretend(monkeypatch, {"everest": 0.2, "tube": 0.6, "random": 0.2})
    left, verdict = slices.early_verdict(params, trials)
    assert left == trials
    assert {name.split("-seed")[0] for name, _ in ran} == {"everest", "random"}, "tube is past the slice, everest at it"
    assert {judgement["rival"] for judgement in verdict["judgements"]} <= {"everest", "random"}
    before = len(ran)
    assert slices.early_verdict(params, trials) == (left, verdict)
    assert len(ran) == before


def test_a_strategy_that_got_ahead_during_a_race_leaves_it_and_its_decisions_stay(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, trials = race
    params = with_overrides(params, {"compare.strategies": ["everest", "tube", "block", "random"]})
    trials = plan(params)
    ran = _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "block": 0.58, "random": 0.2})
    real = slices._slice

    def until_the_third(alive: Sequence[Trial], look: int, count: int) -> slices.Looked:
        if look == 3:
            raise KeyboardInterrupt
        return real(alive, look, count)

    monkeypatch.setattr(slices, "_slice", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        slices.early_verdict(params, trials)
    monkeypatch.setattr(slices, "_slice", real)
    # A comparison without an early verdict has finished one of them.
    monkeypatch.setattr(cells, "finished", lambda stage, key, folder: folder.name.startswith("tube-seed"))
    left, verdict = slices.early_verdict(params, trials)
    assert [row["strategy"] for row in verdict["saved"]] == ["random"], "stopped before the interruption"
    assert {trial.arm for trial in left} == {"everest", "tube", "block"}
    assert max(share for name, share in ran if name.startswith("tube-seed")) == 0.4
    assert max(share for name, share in ran if name.startswith("block")) == 0.8


def test_another_benchmark_or_version_is_looked_at_anew(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, _ = race
    params = with_overrides(
        params, {"benchmarks.other": params.benchmark("small").model_dump(), "pretrain.corpus": ["small", "other"]}
    )
    _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "random": 0.2})
    for benchmarks in (["small"], ["other"], ["small", "other"]):
        compared = with_overrides(params, {"compare.benchmarks": benchmarks})
        for row in slices.early_verdict(compared, plan(compared))[1]["judgements"]:
            assert row["benchmark"] in benchmarks
    ran = _pretend(monkeypatch, {"everest": 0.6, "tube": 0.58, "random": 0.2})
    slices.early_verdict(compared, plan(compared))
    assert not ran, "decided before"
    for part in ("optimisation", "views"):
        raised = {**declared.versions(), part: 99}
        monkeypatch.setattr(declared, "versions", lambda raised=raised: raised)
        ran.clear()
        slices.early_verdict(compared, plan(compared))
        assert ran, part


def test_what_a_former_version_had_begun_is_not_looked_at(
    race: tuple[Params, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (trial, *_) = race
    work = work_of(trial)
    (layout.checkpoint_dir(work / "checkpoints", 750)).mkdir(parents=True)
    (layout.checkpoint_dir(work / "checkpoints", 750) / "manifest.json").write_text("{}")
    (work / "length.json").write_text('{"steps": 1000}')
    assert cells.pretrained_share(trial) == pytest.approx(0.7505)
    raised = {**declared.versions(), "optimisation": 99}
    monkeypatch.setattr(declared, "versions", lambda: raised)
    assert cells.pretraining(trial) is None
    assert cells.pretrained_share(trial) == 0
