"""The sweep over token budgets on real videos, against the model run one budget at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_classifier import classifier
from small_training import ready

from models.weights import load_model
from pipeline import layout
from pipeline.evaluation.benchmark import TestSet, check_model, reader
from pipeline.evaluation.budgets import FILE, NoSweep, Sweep, read_sweep, sweep, write_sweep
from pipeline.evaluation.inference import Answer, infer
from pipeline.params import Params
from pipeline.report.budget_section import budget_section
from pipeline.report.page import html

CPU = torch.device("cpu")
MODEL = layout.output_dir("finetune", "small")


def prepared(**overrides: object) -> tuple[Params, TestSet, list[Answer]]:
    """Videos, a classifier, the test videos, and its answers to them."""
    values = {"evaluate__budgets": [0.3, 1.0], "evaluate__batch": 4, "evaluate__segments": 2, **overrides}
    params = ready(**values)
    classifier(params)
    tests = TestSet.load("small")
    return params, tests, answered(params, tests)


def answered(params: Params, tests: TestSet, **changed: object) -> list[Answer]:
    model = load_model(MODEL)
    for name, value in changed.items():
        setattr(model, name, value)
    found = infer(model, reader(params, "small", tests), len(tests.ids), views=2, resolution=32, batch=4, device=CPU)
    return [found[number] for number in range(len(tests.ids))]


def right(answers: list[Answer], tests: TestSet) -> list[bool]:
    return [int(np.argmax(a.probability)) == label for a, label in zip(answers, tests.labels, strict=True)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_budget_scores_as_the_model_does_with_it_alone() -> None:
    params, tests, answers = prepared()
    # The labels that make half of the answers right, so that tokens put back can turn some.
    labels = [int(np.argmax(a.probability)) if n % 2 else 0 for n, a in enumerate(answers)]
    tests = TestSet(tests.ids, tests.paths, labels, {})
    found = sweep(params, "small", tests, answers, MODEL, check_model(MODEL, params, "small"), CPU)
    assert found is not None
    assert isinstance(found, Sweep)
    assert [row.keep_ratio for row in found.budgets] == [0.3, 0.6, 1.0], "its own and all tokens are always there"
    for row in found.budgets:
        alone = right(answered(params, tests, keep_ratio=row.keep_ratio), tests)
        assert row.top1 == pytest.approx(np.mean(alone))
        assert row.top1_ci_low <= row.top1 <= row.top1_ci_high
        assert row.clips_per_second > 0
    assert [row.tokens for row in found.budgets] == [4, 9, 16]
    assert found.budgets[0].gmacs < found.budgets[1].gmacs < found.budgets[2].gmacs
    own, everything = right(answers, tests), right(answered(params, tests, keep_ratio=1.0), tests)
    assert (found.errors, found.hits) == (own.count(False), own.count(True))
    assert found.put_right == sum(b and not a for a, b in zip(own, everything, strict=True))
    assert found.lost == sum(a and not b for a, b in zip(own, everything, strict=True))
    write_sweep(Path(FILE), found)
    assert read_sweep(Path(FILE)) == found
    assert json.loads(Path(FILE).read_text())["videos"] == tests.ids
    page = html("t", "s", [], [budget_section(found)])
    assert 'data-start="1"' in page
    assert page.count('class="step"') == 3
    assert "60 % (as trained)" in page
    assert "on 6 of 6 test videos (their ids" in page


def test_a_sample_is_drawn_by_the_seed_and_named_and_unreadable_videos_are_not_in_it() -> None:
    params, tests, answers = prepared(evaluate__budget_videos=3)
    tests = TestSet(tests.ids, tests.paths, tests.labels, {tests.ids[0]: "truncated"})
    answers[0] = Answer(None, "truncated")
    found = sweep(params, "small", tests, answers, MODEL, check_model(MODEL, params, "small"), CPU)
    assert found is not None
    assert len(found.videos) == 3
    assert tests.ids[0] not in found.videos
    assert found.videos == tests.sample(3, params.seed).ids == sorted(found.videos)
    assert found.of_videos == 5
    assert {tuple(tests.sample(3, seed).ids) for seed in range(9)} != {tuple(found.videos)}
    assert "3 of 5 test videos, drawn with seed 0" in budget_section(found).note


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"evaluate__budgets": []}, "evaluate.budgets is empty"),
        ({"finetune__strategy": "none"}, "fine-tuning and test keep all tokens (finetune.strategy is none)"),
        ({"finetune__strategy": "rlt_everest"}, "rlt_everest decides by clip how many tokens it keeps"),
        ({"finetune__strategy": "rlt"}, "rlt decides by clip how many tokens it keeps"),
    ],
)
def test_without_budgets_and_where_the_model_has_none_to_turn_the_page_says_why(
    overrides: dict[str, object], reason: str
) -> None:
    params, tests, answers = prepared(**overrides)
    assert read_sweep(Path(FILE)) is None
    found = sweep(params, "small", tests, answers, MODEL, check_model(MODEL, params, "small"), CPU)
    write_sweep(Path(FILE), found)
    assert read_sweep(Path(FILE)) == found
    assert isinstance(found, NoSweep)
    assert found.reason.startswith(reason)
    assert reason in budget_section(found).note
