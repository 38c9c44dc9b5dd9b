"""Looking at a folder before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.audit.audit import Audit


def audit(
    folder: Path | str,
    *,
    out: Path | str = Path("outputs/audit/audit.html"),
    gpu: str = "h100",
    gpus: int = 1,
    size: str = "base",
) -> Audit:
    """Say how redundant a folder's videos are: `everest audit` (`pipeline.audit.audit.audit`).

    Args:
        folder: searched for videos, with its subfolders.
        out: the HTML page.
        gpu, gpus: device of the predictions, as `everest plan` takes them.
        size: of the model that they are for.

    Raises:
        InputError: no video, none that can be decoded, an unknown device or size, a page that cannot be written.
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    from pipeline.audit.audit import audit as look

    return look(folder, out=out, gpu=gpu, gpus=gpus, size=size)
