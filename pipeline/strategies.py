"""What params, plans and reports know of the masking strategies, read from their files without importing torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class StrategyFacts:
    """The literals of a `models.strategies.Strategy`; the attributes mean the same."""

    name: str
    sentence: str
    source: str
    ratios: tuple[float, float] | None = None
    finetune_ratio: float | None = None
    reads_scores: bool = False
    uses_keep_ratio: bool = False
    selects_frames: bool = False

    @property
    def label(self) -> str:
        """The name by which a comparison calls it."""
        return self.name.replace("_", "-")


@cache
def strategy_facts() -> dict[str, StrategyFacts]:
    """Name -> facts of every strategy in `models/strategies`, in alphabetical order."""
    spec = find_spec("models")  # finds the package without running it
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package `models` is missing. Cure: install the project again.")
    folder = Path(next(iter(spec.submodule_search_locations))) / "strategies"
    facts = [fact for path in sorted(folder.glob("*.py")) if (fact := _facts(path))]
    return {fact.name: fact for fact in facts}


def compared_facts(label: str) -> StrategyFacts | None:
    """The facts behind a name in a comparison (`everest-keep-0.4`); None where nothing is pre-trained."""
    matches = [facts for facts in strategy_facts().values() if f"{label}-".startswith(f"{facts.label}-")]
    return max(matches, key=lambda facts: len(facts.label), default=None)


def _facts(path: Path) -> StrategyFacts | None:
    known = {field.name for field in fields(StrategyFacts)}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        named = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["STRATEGY"]
        if named and isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            given = {word.arg: word.value for word in node.value.keywords if word.arg in known}
            return StrategyFacts(**{name: ast.literal_eval(value) for name, value in given.items() if name})
    return None
