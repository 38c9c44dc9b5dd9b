"""What params, plans and reports know of the masking strategies, read from their files without importing torch."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

#: `finetune.init` for fresh weights; also a file of the project, since DVC wants every dependency to be a path.
SCRATCH = "scratch"
#: An arm of a comparison with a number: another keep ratio, or a share of each clip's score.
_NUMBERED = re.compile(r"(?P<head>.+)-(?P<word>keep|share)-(?P<value>\d*\.?\d+)")
#: Dotted key of params.yaml -> the value that an arm of a comparison has there.
Overrides: TypeAlias = dict[str, str | float]


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
    planned_as: str | None = None
    merges: bool = False

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


#: Names of the strategies that `models/strategies` holds for pre-training, and for fine-tuning.
PRETRAINING = tuple(name for name, facts in strategy_facts().items() if facts.ratios)
FINETUNING = tuple(name for name, facts in strategy_facts().items() if facts.finetune_ratio)


def compared_strategies() -> dict[str, Overrides]:
    """Name in a comparison -> overrides of params.yaml.

    Fine-tuning is the same for all, so that only the pre-training differs, but for `everest-then-tome` and its like,
    EVEREST's pre-training fine-tuned with another strategy, and `everest-tested-tome` and its like, where the weights
    are the same too, and only tested with another strategy. Strategies that do not select frames see the clip as it
    comes, and the ratio of kept tokens is 1, since it means nothing there; with `-chosen-frames` they see it as
    `pretrain.frame_selection` says, and the ratio stays, since it says by how many tokens frames are chosen. Those
    whose compute it bounds are also compared with another one, `everest-keep-0.4`, and those that read scores with a
    budget for each clip, `everest-share-0.6`.
    """
    arms: dict[str, Overrides] = {}
    for name in PRETRAINING:
        facts = strategy_facts()[name]
        chosen: Overrides = {"pretrain.strategy": name}
        every: Overrides = {**chosen, "pretrain.frame_selection.mode": "none"}
        if not facts.uses_keep_ratio:
            every["pretrain.keep_ratio"] = 1.0
        if facts.selects_frames:
            arms |= {facts.label: chosen, f"{facts.label}-all-frames": every}
        else:
            arms |= {facts.label: every, f"{facts.label}-chosen-frames": chosen}
    for name in FINETUNING:
        if name != "everest":
            label = strategy_facts()[name].label
            arms[f"everest-then-{label}"] = {"pretrain.strategy": "everest", "finetune.strategy": name}
            arms[f"everest-tested-{label}"] = {"pretrain.strategy": "everest", "evaluate.strategy": name}
    return {**arms, "scratch": {"finetune.init": SCRATCH}}


def arm_overrides(name: str) -> Overrides | None:
    """Overrides of an arm: `everest-keep-0.4` has another share of kept tokens, `everest-share-0.6` a budget by clip.

    None for an unknown name.
    """
    arms = compared_strategies()
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return arms.get(name)
    overrides, value = arms.get(match["head"]), float(match["value"])
    if overrides is None or "pretrain.strategy" not in overrides or not 0 < value <= 1:
        return None
    facts = strategy_facts()[str(overrides["pretrain.strategy"])]
    if match["word"] == "keep":
        return {**overrides, "pretrain.keep_ratio": value} if facts.uses_keep_ratio else None
    return {**overrides, "pretrain.score_share": value} if facts.reads_scores else None
