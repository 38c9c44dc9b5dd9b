"""Strategies register themselves, say what they are, and are known to params.yaml without torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from models.selection import Grid
from models.strategies import STRATEGIES, finetuning_rule, kept_tokens, pretraining_rules
from pipeline.strategies import strategy_facts


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_strategy_says_what_it_does_where_it_is_from_and_is_named_as_its_file(name: str, root: Path) -> None:
    strategy = STRATEGIES[name]
    assert (root / "models" / "strategies" / f"{name}.py").exists()
    assert strategy.name == name
    assert strategy.sentence[0].islower()
    assert not strategy.sentence.endswith(".")
    assert "arXiv" in strategy.source
    assert (strategy.split is None) == (strategy.budget is None) == (strategy.ratios is None)
    assert (strategy.keep is None) == (strategy.finetune_ratio is None)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_params_know_of_a_strategy_is_what_it_says_of_itself(name: str) -> None:
    facts, strategy = strategy_facts()[name], STRATEGIES[name]
    for field in dataclasses.fields(facts):
        assert getattr(facts, field.name) == getattr(strategy, field.name), field.name


def test_params_know_all_strategies_without_importing_torch(root: Path) -> None:
    code = "import sys, pipeline.params as p; assert 'torch' not in sys.modules; print(*p.PRETRAINING, *p.FINETUNING)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == set(STRATEGIES)


def test_a_strategy_that_only_pre_trains_is_refused_in_fine_tuning_and_the_other_way_round() -> None:
    with pytest.raises(ValueError, match=r"strategy = 'tube', expected one of everest, none.*Cure"):
        finetuning_rule("tube")
    with pytest.raises(ValueError, match=r"strategy = 'none', expected one of .*everest.*Cure"):
        pretraining_rules("none")


def test_the_papers_share_of_tokens_is_kept_in_fine_tuning() -> None:
    assert kept_tokens("everest", Grid(8, 14, 14), 0.6) == 940
    assert kept_tokens("none", Grid(8, 14, 14), 0.6) == 1568
