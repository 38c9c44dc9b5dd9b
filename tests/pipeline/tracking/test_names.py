"""The names of metrics stand in one module; whoever measures or shows them takes them from there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import rooms

from pipeline.tracking import names

SPELLED = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and "/" in value}
#: A name, or the beginning of one that is completed when it runs.
SHAPED = re.compile(r"(train|val|eval|efficiency|step)/[a-z_]*")


def _strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """The strings of a module that are not docstrings or other bare text."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node


def test_no_module_but_one_spells_the_name_of_a_metric(root: Path) -> None:
    for path in rooms.sources(root).values():
        if path == root / "pipeline" / "tracking" / "names.py":
            continue
        spelled = [
            f"{path}:{string.lineno} {string.value!r}"
            for string in _strings(ast.parse(path.read_text(encoding="utf-8")))
            if string.value in SPELLED or SHAPED.fullmatch(string.value)
        ]
        assert not spelled, "Cure: take it from pipeline.tracking.names."


def test_a_stage_has_its_place_on_the_run_of_the_experiment() -> None:
    loss = {names.TRAIN_LOSS: 0.5}
    assert names.of_experiment("pretrain", None, loss) == {"pretrain/train/loss": 0.5}
    assert names.of_experiment("finetune", "motion", loss) == {"motion/finetune/train/loss": 0.5}
    assert names.of_experiment("evaluate", "motion", {names.EVAL_TOP1: 1.0}) == {"motion/eval/top1": 1.0}


def test_the_history_keeps_the_columns_that_finished_runs_have() -> None:
    from pipeline.training.journal import COLUMNS

    assert COLUMNS == ("step", "epoch", "loss", "lr", "grad_norm", "val_loss", "val_top1", "val_top5", "seconds")
