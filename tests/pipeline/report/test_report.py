"""Plots, pages, sentences and the comparison's arithmetic."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from models.frames import choose_slots
from pipeline import layout
from pipeline.commands.results import show_results
from pipeline.errors import InputError
from pipeline.evaluation.metrics import strategy_difference
from pipeline.paper import figures
from pipeline.params import PRETRAINING, Params, arm_overrides, compared_strategies, load_params, with_overrides
from pipeline.planning.equal import plan
from pipeline.report import comparison
from pipeline.report.collect import collect
from pipeline.report.experiment import draw, write_report
from pipeline.report.page import Section, Table, duration, html, markdown, number
from pipeline.report.plots import against, as_file, curves, in_page, intervals, moving_mean, pareto, reliability
from pipeline.report.sentences import comparison_sentences, difference, sentences
from pipeline.training.measured import sentence


@pytest.fixture(scope="module")
def params(root: Path) -> Params:
    return load_params(root / "recipes" / "drawn.yaml")


def write_scores(path: Path, more: Mapping[str, float] | None = None) -> None:
    """The results of a stage, with the scores of a test and no cost but what `more` has."""
    scores = {f"eval/{name}": 0.5 for name in ("top1", "top1_ci_low", "top1_ci_high", "class_mean")}
    scores |= {"eval/calibration_error": 0.1, "eval/videos_ok": 4, "eval/videos_total": 4, **(more or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores))


def row(low: float, top1: float, high: float) -> dict[str, object]:
    values = {"benchmark": "motion", "strategy": "everest", "keep_ratio": 0.6, "chance": 12.5, "trivial": None}
    values |= {"top1": top1, "top1_ci_low": low, "top1_ci_high": high, "videos_ok": 380, "videos_total": 384}
    return values


def test_the_sentence_says_what_the_interval_allows_and_counts_what_is_missing(params: Params) -> None:
    text = sentences([row(77.0, 81.0, 85.0)], params)[0]
    assert "81.0 % top-1 (95 % interval 77.0 to 85.0) on 380 of 384 test videos, above chance (12.5 %)" in text
    assert "4 could not be read" in text
    assert "not distinguishable from chance" in sentences([row(10.0, 14.0, 18.0)], params)[0]


@pytest.mark.parametrize(("trivial", "verdict"), [
    (60.0, "that is more than the best trivial model reaches, 60.0 % (58.0 to 62.0) by one frame"),
    (82.0, "do not tell the model from the best trivial one"),
    (95.0, "a trivial model is better: 95.0 %"),
])  # fmt: skip
def test_a_score_is_set_beside_what_a_trivial_model_reaches(params: Params, trivial: float, verdict: str) -> None:
    model = {"model": "one frame", "top1": trivial, "top1_ci_low": trivial - 2, "top1_ci_high": trivial + 2}
    assert verdict in sentences([row(77.0, 81.0, 85.0) | {"trivial": model}], params)[1]


@pytest.mark.parametrize(("model", "overrides", "advised"), [
    ("frame differences, nearest neighbours", {}, "try clip.input: difference and finetune.head: places (docs"),
    ("frame differences, nearest neighbours", {"clip.input": "difference"}, "place: try finetune.head: places (docs"),
    ("frame differences, nearest neighbours", {"finetune.head": "places"}, "place: try clip.input: difference (docs"),
    ("frame differences, nearest neighbours", {"clip.input": "difference", "finetune.head": "places"}, None),
    ("one frame, nearest neighbours", {}, None),
])  # fmt: skip
@pytest.mark.parametrize("trivial", [82.0, 95.0])
def test_where_differences_tell_the_classes_the_model_is_advised_to_see_them_at_their_places(
    root: Path, trivial: float, model: str, overrides: dict[str, str], advised: str | None
) -> None:
    params = load_params(root / "recipes" / "drawn.yaml", overrides)
    best = {"model": model, "top1": trivial, "top1_ci_low": trivial - 2, "top1_ci_high": trivial + 2}
    text = sentences([row(77.0, 81.0, 85.0) | {"trivial": best}], params)[1]
    assert (advised in text) if advised else ("try" not in text)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.5, 3.5, "is better than"), (-3.5, -0.5, "is worse than"), (-1.0, 3.0, "do not tell everest from tube")],
)
def test_a_difference_is_claimed_only_where_its_interval_excludes_zero(low: float, high: float, verdict: str) -> None:
    row = {"a": "everest", "b": "tube", "difference": (low + high) / 2, "low": low, "high": high, "seeds": 3}
    text = difference(row, "multiply-adds")
    assert verdict in text
    assert text.startswith("At equal pre-training multiply-adds, ")
    assert "better than training from scratch" in difference(row | {"b": "scratch", "low": 0.1, "high": 9.0}, "epochs")


def test_an_undecided_comparison_says_what_could_hide_in_it_and_few_seeds_are_named() -> None:
    row = {"benchmark": "motion", "a": "everest", "b": "tube", "difference": 1.0, "low": -2.0, "high": 4.4, "seeds": 2}
    costs = [
        {"strategy": name, "epochs": 2, "tmacs_total": total, "gmacs_per_clip": gmacs, "clips_per_second": rate}
        for name, total, gmacs, rate in (("everest", 1.0, 0.05, 200.0), ("tube", 1.2, 0.1, 100.0))
    ]
    text = comparison_sentences([row], costs, "multiply-adds", 2)
    assert "A true difference of up to about 4 points could hide in this." in text[0]
    assert text[1].startswith(
        "One clip of pre-training costs everest 0.50 times tube's multiply-adds, and 2.00 times as many clips passed"
    )
    assert text[0].startswith("motion. At 1 and 1.2 T multiply-adds of pre-training, these data do not tell")
    assert text[2].startswith("The budgets are unequal: 1 to 1.2 T multiply-adds.")
    assert "equal" not in " ".join(comparison_sentences([row], costs, "epochs", 5)).replace("At equal pre-training", "")
    assert text[3].startswith("2 seeds:")


@pytest.mark.parametrize(("other", "given"), [
    ("everest-tested-tome", "With the same weights, "), ("everest-then-tome", "With the same pre-training, "),
    ("everest-keep-0.4", "At equal pre-training epochs, "), ("scratch", "With the same fine-tuning, "),
])  # fmt: skip
def test_what_two_strategies_share_is_said(other: str, given: str) -> None:
    row = {"benchmark": "motion", "a": "everest", "b": other, "difference": 0.0, "low": 0.0, "high": 0.0, "seeds": 1}
    assert difference(row, "epochs").startswith(given)
    costs = [
        {"strategy": name, "epochs": 2, "tmacs_total": 1.0, "gmacs_per_clip": 0.05, "clips_per_second": 9.0}
        for name in ("everest", other)
    ]
    text = " ".join(comparison_sentences([row], costs, "epochs", 5))
    assert "up to about 0 points" in text
    assert ("One clip of pre-training costs" in text) == (given.startswith("At equal") or other == "scratch")


def compared(params: Params, **values: object) -> Params:
    return with_overrides(params, {f"compare.{name}": value for name, value in values.items()})


def test_every_strategy_that_params_may_name_has_its_overrides(params: Params) -> None:
    names = compared_strategies()
    assert {overrides.get("pretrain.strategy") for overrides in names.values()} == {*PRETRAINING, None}
    assert {"everest", "everest-all-frames", "tube", "random", "running-cell", "scratch"} < set(names)
    assert {"tube-chosen-frames", "adamae", "rlt-everest", "everest-then-tome", "everest-then-rlt"} < set(names)
    for name in (*names, "everest-keep-0.6", "everest-share-0.6"):
        assert plan(compared(params, strategies=[name], seeds=[0]))[0].arm == name
    keep = plan(compared(params, strategies=["everest-keep-0.6"], seeds=[0]))[0].params.pretrain.keep_ratio
    assert keep == 0.6
    shared, merged = plan(compared(params, strategies=["everest-share-0.6", "everest-then-tome"], seeds=[0]))
    assert (shared.params.pretrain.score_share, shared.params.finetune.score_share) == (0.6, None)
    assert (merged.params.pretrain.strategy, merged.params.finetune.strategy) == ("everest", "tome")
    assert merged.epochs == shared.epochs, "the same pre-training"


@pytest.mark.parametrize("name", [name for name in compared_strategies() if name.endswith("-chosen-frames")])
def test_an_arm_with_chosen_frames_chooses_those_that_move(params: Params, name: str) -> None:
    arm = with_overrides(params, {"pretrain.keep_ratio": 0.3} | (arm_overrides(name) or {}))
    generator = torch.Generator().manual_seed(0)
    distance_BAL = torch.rand(500, 12, 49, generator=generator) * 0.1 + 0.01
    distance_BAL[:, 3:6] += 5  # a fourth of the candidates moves
    noise_BA = torch.rand(500, 12, generator=generator)
    slots_BS = choose_slots(distance_BAL, 8, arm.pretrain.keep_ratio, noise_BA)
    assert arm.pretrain.frame_selection.mode == params.pretrain.frame_selection.mode != "none"
    for moving in (3, 4, 5):
        assert (slots_BS == moving).any(1).float().mean() > 0.99, "drawn uniformly it would be 0.67"


def test_an_arm_takes_another_keep_ratio_only_where_it_bounds_what_is_computed() -> None:
    assert arm_overrides("everest-keep-0.4") == {"pretrain.strategy": "everest", "pretrain.keep_ratio": 0.4}
    assert [arm_overrides(f"{head}-keep-0.4") for head in ("tube", "tube-chosen-frames", "scratch")] == [None] * 3


def test_a_fixed_strategy_costs_the_same_at_any_keep_ratio(params: Params) -> None:
    tube, chosen = plan(compared(params, strategies=["tube", "tube-chosen-frames"], seeds=[0]))
    assert tube.params.pretrain.keep_ratio != chosen.params.pretrain.keep_ratio
    assert (tube.gmacs_per_clip, tube.epochs) == (chosen.gmacs_per_clip, chosen.epochs)


def test_a_comparison_counts_the_multiply_adds_of_the_tokens_that_clips_kept(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "corpus_size", lambda name: 1000)
    trials = plan(compared(params, strategies=["everest", "rlt-everest", "scratch"], seeds=[0]))
    planned = trials[0].gmacs_per_clip
    folders = [tmp_path / trial.name for trial in trials]
    for folder, measured in zip(folders[:2], (planned, 1.5 * planned), strict=True):
        path = folder / layout.results_file("pretrain", None)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"efficiency/gmacs_per_clip": measured}))
    costs = [comparison._cost([trial], [folder]) for trial, folder in zip(trials, folders, strict=True)]
    assert [row["gmacs_per_clip"] for row in costs] == pytest.approx([planned, 1.5 * planned, 0])
    assert costs[0]["gmacs_per_corpus_clip"] == pytest.approx(trials[0].pretrain_gmacs)
    assert costs[1]["tmacs_total"] == pytest.approx(1.5 * costs[0]["tmacs_total"])
    assert costs[2]["tmacs_total"] == 0
    row = {"benchmark": "motion", "b": "everest", "difference": 1.0, "low": 0.5, "high": 2.0, "seeds": 5}
    rows = [row | {"a": name} for name in ("rlt-everest", "scratch")]
    said = comparison_sentences(rows, costs, "multiply-adds", 5)  # type: ignore[arg-type]
    assert f"At {costs[1]['tmacs_total']:.3g} and {costs[0]['tmacs_total']:.3g} T multiply-adds" in said[0]
    assert "With the same fine-tuning, " in said[1]
    assert "At equal" not in " ".join(said)


def test_all_benchmarks_are_compared_unless_some_are_named_and_an_unknown_one_is_refused(params: Params) -> None:
    assert plan(compared(params, benchmarks=None))[0].benchmarks == ["motion", "state_change"]
    assert plan(compared(params, benchmarks=["state_change"]))[0].benchmarks == ["state_change"]
    with pytest.raises(InputError, match="Cure: did you mean 'motion'"):
        plan(compared(params, benchmarks=["motoin"]))


def test_equal_multiply_adds_give_the_cheaper_strategy_more_epochs(params: Params) -> None:
    trials = plan(compared(params, strategies=["everest", "tube", "scratch"], seeds=[0, 1]))
    assert [(t.arm, t.seed) for t in trials] == [(a, s) for a in ("everest", "tube", "scratch") for s in (0, 1)]
    everest, tube, scratch = trials[0], trials[2], trials[4]
    assert everest.params.pretrain.epochs == params.pretrain.epochs
    assert tube.params.pretrain.epochs < everest.params.pretrain.epochs
    assert tube.pretrain_gmacs == pytest.approx(everest.pretrain_gmacs, rel=0.5 / tube.params.pretrain.epochs + 0.01)
    assert tube.params.pretrain.frame_selection.mode == "none"
    assert scratch.params.finetune.init == "scratch"
    assert scratch.pretrain_gmacs == 0
    assert trials[1].params.seed == 1


def test_equal_wall_time_follows_the_measured_rates(params: Params) -> None:
    params = compared(params, strategies=["everest", "tube"], seeds=[0], equal="wall-time")
    trials = plan(params, {"everest": 100.0, "tube": 50.0})
    assert trials[1].params.pretrain.epochs == params.pretrain.epochs // 2
    with pytest.raises(InputError, match="no measured rate of 'tube'"):
        plan(params, {"everest": 100.0})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategies": ["tubes"]}, "'tubes', which is unknown. Cure: did you mean 'tube'"),
        ({"strategies": ["tube-keep-0.5"]}, "'tube-keep-0.5', which is unknown"),
        ({"strategies": ["everest-keep-2"]}, "'everest-keep-2', which is unknown"),
        ({"strategies": ["tube-share-0.6"]}, "'tube-share-0.6', which is unknown"),
        ({"strategies": ["everest", "everest"]}, "named twice. Cure"),
        ({"strategies": []}, "at least 1 item"),
        ({"seeds": [1, 1]}, "named twice. Cure"),
        ({"equal": "money"}, "compare.equal = 'money'"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(params: Params, values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compared(params, **values)


def test_seeds_widen_the_interval_of_a_difference() -> None:
    random = np.random.default_rng(0)
    same = np.tile(random.random(300) < 0.7, (3, 1))
    lucky = same.copy()
    lucky[0] = random.random(300) < 0.95
    mean, (low, high) = strategy_difference(lucky, same, 800)
    assert mean == pytest.approx(lucky.mean() - same.mean())
    assert low <= 0.01, "one lucky training of three is no proof"
    assert high > mean


def test_moving_mean_and_pareto_front_of_small_examples() -> None:
    assert moving_mean([1, 3, 5, 7], 2) == [1, 2, 4, 6]
    assert pareto([(1, 50), (2, 40), (3, 60), (3, 55)]) == [(1, 50), (3, 60)]


def test_an_interval_that_does_not_hold_its_value_is_drawn_all_the_same(tmp_path: Path) -> None:
    above, below = (1.0, 50.0, 51.0, 53.0), (2.0, 50.0, 47.0, 49.0)
    scores = [{"name": "a", "x": x, "y": y, "low": low, "high": high} for x, y, low, high in (above, below)]
    assert "<svg" in intervals(scores, title="t", x="x", y="y")
    assert "<svg" in against([above, below], title="t", x="x", y="y")
    assert "<svg" in reliability({"a": [above, below]}, title="t")
    points = [(figures.Interval("a", *one[1:]), one[0]) for one in (above, below)]
    figures.against(tmp_path / "a.pdf", points, {}, "x", "y")
    assert (tmp_path / "a.pdf").is_file()


def test_plots_follow_the_page_and_stand_alone_in_light_colours() -> None:
    svg = curves({"a": [(0, 1.0), (1, 0.5)], "b": [(0, 1.0), (1, 0.7)]}, title="Loss", x="step", y="loss")
    inside, alone = in_page(svg), as_file(svg)
    assert "var(--s1)" in inside
    assert "var(--ink)" in inside
    assert "#a1000" not in inside + alone
    assert "#0072b2" in alone.lower()
    assert "Loss" in inside
    assert svg == curves({"a": [(0, 1.0), (1, 0.5)], "b": [(0, 1.0), (1, 0.7)]}, title="Loss", x="step", y="loss")
    points = [
        {"name": n, "x": x, "y": y, "low": y - 2, "high": y + 2} for n, x, y in (("a", 1.0, 50.0), ("b", 2.0, 60.0))
    ]
    assert "var(--s2)" in in_page(intervals(points, title="t", x="x", y="y"))
    third = in_page(intervals([points[0] | {"style": 2}], title="t", x="x", y="y"))
    assert "var(--s3)" in third, "a strategy keeps its look where another one is left out"
    assert "var(--s1)" not in third


def test_the_page_is_self_contained_and_escapes_what_it_shows(tmp_path: Path) -> None:
    section = Section("Results <b>", tables=[Table(["name", "top-1 %"], [["a|b", "81.0"]])])
    section.add_confusion("motion", ["up", "down"], np.array([[3, 1], [0, 4]]))
    page = html("Title", "sub", ["verdict"], [section])
    assert "Results &lt;b&gt;" in page
    assert not re.search(r'(src|href)="https?:', page)
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    text = markdown("Title", "sub", ["verdict"], [section])
    assert "| a\\|b | 81.0 |" in text
    assert "| up | 3 | 1 |" in text


def test_numbers_and_durations_read_well() -> None:
    assert [number(None), number(1234.5), number(0.123, 1, percent=True)] == ["–", "1,234.5", "12.3 %"]
    assert [duration(5.26), duration(45), duration(200), duration(18720)] == [
        "5.3 s",
        "45 s",
        "3 min 20 s",
        "5 h 12 min",
    ]


def test_a_cost_that_was_not_measured_is_a_dash_everywhere_and_never_zero(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for benchmark in params.benchmarks:
        write_scores(layout.results_file("evaluate", benchmark))
    summary = collect(params)
    costs = ("gmacs_per_clip", "peak_memory_gib", "clips_per_second", "wall_seconds")
    assert [summary["results"][0][name] for name in costs] == [None] * 4
    assert [row["mfu"] for row in summary["stages"]] == [None] * len(summary["stages"])
    write_report(summary, tmp_path / "report")
    line = next(x for x in (tmp_path / "report/report.md").read_text().splitlines() if x.startswith("| motion |"))
    assert line.split(" | ")[-4:] == ["–", "–", "–", "– |"]
    show_results(summary, {}, 1.0)
    line = next(x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("motion"))
    assert line.split()[-4:] == ["-"] * 4


def test_a_pretraining_that_the_models_do_not_come_from_is_not_in_the_report(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of other parameters: the report does not depend on it (dvc.yaml: finetune.init)."""
    monkeypatch.chdir(tmp_path)
    write_scores(layout.results_file("pretrain"))
    for benchmark in ("motion", "state_change"):
        write_scores(layout.results_file("evaluate", benchmark))
    (layout.output_dir("pretrain") / "history.csv").write_text("step,epoch,loss\n1,0,0.9\n2,0,0.8\n")
    for init, there in (("outputs/pretrain", True), ("scratch", False), ("weights", False)):
        params = load_params(root / "recipes" / "drawn.yaml", {"finetune.init": init})
        summary = collect(params)
        assert ("pretrain" in [row["stage"] for row in summary["stages"]]) is there
        assert ("pretrain_loss" in draw(summary)) is there


def test_the_multiply_adds_beside_a_score_are_those_of_the_strategy_that_it_was_tested_with(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for benchmark in ("motion", "state_change"):
        for stage, gmacs in (("finetune", 3.0), ("evaluate", 7.0)):
            write_scores(layout.results_file(stage, benchmark), {"efficiency/gmacs_per_clip": gmacs})
    for strategy, gmacs in (("none", 7.0), (None, 3.0)):
        params = load_params(root / "recipes" / "drawn.yaml", {"evaluate.strategy": strategy})
        assert [row["gmacs_per_clip"] for row in collect(params)["results"]] == [gmacs, gmacs]


def test_the_end_of_a_training_leaves_out_what_was_not_measured() -> None:
    text = sentence("pretrain", {"efficiency/peak_memory_gib": 0.5})
    assert text == "pretrain: peak memory 0.50 GiB, energy not measured: no counter that may be read"
    text = sentence(
        "pretrain", {"efficiency/mfu": 0.123, "efficiency/other_fraction": 1.0, "efficiency/energy_wh": 2.0}
    )
    assert text == "pretrain: MFU 12.3 %, energy 2.000 Wh\npretrain: of a step other 100.0 %"
