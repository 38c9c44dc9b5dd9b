"""Steps that were refused because a loss or a gradient was NaN or infinite: their records and the error."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.distributed.groups import Ranks
from pipeline.errors import EverestError
from pipeline.training.engine.step import Outcome


class NonFinite(EverestError):
    """A loss or gradient was NaN or infinite; no update was made from it."""


def record(work: Path, outcome: Outcome, ranks: Ranks) -> None:
    """Write which clips each rank had in the refused step (a collective)."""
    report = ranks.gather(
        {"rank": ranks.rank, "clips": [index_B.tolist() for index_B in outcome.indices], "loss": outcome.loss}
    )
    if ranks.main:
        facts = {"step": outcome.step, "bad_ranks": outcome.bad_ranks, "grad_norm": str(outcome.grad_norm)}
        _file(work, outcome.step).write_text(json.dumps({**facts, "ranks": report}, indent=1))


def error(work: Path, outcome: Outcome, ranks: Ranks) -> NonFinite:
    """What ends the training after a refused step."""
    return NonFinite(
        f"step {outcome.step}: loss {outcome.loss}, gradient norm {outcome.grad_norm}; non-finite on "
        f"{outcome.bad_ranks:.0f} of {ranks.world} ranks. No update was made from it; its clips are listed in "
        f"{_file(work, outcome.step)}. Cure: lower base_lr, set clip_grad, or set on_nonfinite to 'skip' or 'rollback'."
    )


def _file(work: Path, step: int) -> Path:
    return work / f"nonfinite-{step:09d}.json"
