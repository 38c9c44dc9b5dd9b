"""Looking at a folder before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.audit.audit import Audit
    from pipeline.setup.init import Setup


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


def init(
    place: Path | str,
    *,
    hours: float = 4.0,
    device: str = "auto",
    gpus: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> Setup:
    """Write a params.yaml that fits your own videos: `everest init` (`pipeline.setup.init.init`).

    Args:
        place: a folder with a folder for each class, or a CSV or Parquet table beside the videos.
        hours: that the whole chain may take.
        device: as `everest plan --gpu` takes it, or `auto` for this machine's.
        gpus: how many; all that are here if None.
        name: of the set; by default the folder's or the table's.
        force: overwrite a params.yaml that holds edits.

    Raises:
        InputError: nothing can be made of the videos, an unknown device, hours of none, a file in the way.
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    from pipeline.setup.init import init as write

    return write(place, hours=hours, device=device, gpus=gpus, name=name, force=force)
