"""Masking strategies, one file each. A file that holds a `STRATEGY` is registered by lying here."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from models.selection import Budget, Grid, floor_share
from models.strategies.base import BudgetRule, KeepRule, SplitRule, Strategy

__all__ = ["STRATEGIES", "Strategy", "finetuning_rule", "kept_tokens", "pretraining_rules", "token_budget"]


def _registered() -> dict[str, Strategy]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {module.STRATEGY.name: module.STRATEGY for module in modules if hasattr(module, "STRATEGY")}


#: Name -> strategy, in alphabetical order.
STRATEGIES: dict[str, Strategy] = _registered()


def pretraining_rules(name: str) -> tuple[SplitRule, BudgetRule]:
    """The split and the budget of a strategy that pre-trains.

    Raises:
        ValueError: an unknown strategy, or one for fine-tuning only.
    """
    strategy = STRATEGIES.get(name)
    if strategy is None or strategy.split is None or strategy.budget is None:
        names = ", ".join(known for known, one in STRATEGIES.items() if one.split)
        raise ValueError(f"strategy = {name!r}, expected one of {names}. Cure: choose one of them.")
    return strategy.split, strategy.budget


def finetuning_rule(name: str) -> KeepRule:
    """The rule by which a strategy keeps tokens in fine-tuning and testing.

    Raises:
        ValueError: an unknown strategy, or one for pre-training only.
    """
    strategy = STRATEGIES.get(name)
    if strategy is None or strategy.keep is None:
        names = ", ".join(known for known, one in STRATEGIES.items() if one.keep)
        raise ValueError(f"strategy = {name!r}, expected one of {names} in fine-tuning. Cure: 'none' keeps all tokens.")
    return strategy.keep


def token_budget(name: str, grid: Grid, keep_ratio: float, visible_ratio: float) -> Budget:
    """Token counts of a pre-training strategy (16 frames at 224 px: everest 156 + 314, tube 160 + 1408).

    Raises:
        ValueError: an unknown strategy, or ratios that leave nothing to show or nothing to reconstruct.
    """
    _, rule = pretraining_rules(name)
    if not (0 < visible_ratio <= 1 and 0 < keep_ratio <= 1):
        raise ValueError(
            f"keep_ratio = {keep_ratio}, visible_ratio = {visible_ratio}: both are shares of all tokens, above 0 and "
            "at most 1. Cure: paper values 0.3 and 0.1 (EVEREST's own flags name what is dropped, ours what is kept)."
        )
    budget = rule(grid, keep_ratio, visible_ratio)
    if min(budget) < 1:
        raise ValueError(
            f"strategy {name!r} with keep_ratio = {keep_ratio}, visible_ratio = {visible_ratio} on "
            f"{grid.slots}x{grid.height}x{grid.width} = {grid.tokens} tokens shows {budget.visible} and leaves "
            f"{budget.reconstruct} to reconstruct; both must be positive. Cure: keep_ratio above visible_ratio "
            "(paper: 0.3 and 0.1), or a larger clip."
        )
    return budget


def kept_tokens(name: str, grid: Grid, keep_ratio: float) -> int:
    """Tokens of a clip that a strategy keeps in fine-tuning and testing (everest: 940 of 1568 at 0.6)."""
    finetuning_rule(name)
    return floor_share(keep_ratio, grid.tokens) if STRATEGIES[name].uses_keep_ratio else grid.tokens
