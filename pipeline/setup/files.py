"""The files that `everest init` writes: params.yaml, the list of videos with their splits, and of those left out."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path

from pipeline.data.annotations.own import from_table, is_name
from pipeline.errors import InputError
from pipeline.multilabel.labels import SEPARATOR
from pipeline.recipes import PARAMS, edits
from pipeline.setup.groups import Groups
from pipeline.setup.look import OwnSet, OwnVideo
from pipeline.setup.split import Split
from pipeline.system.csv_files import Writer, guarded
from pipeline.system.files import write_text
from pipeline.system.text import printable

#: Lists of videos with their splits; to be committed together with params.yaml.
LISTS = Path("annotations")


def check_target(force: bool) -> None:
    """Refuse before the work what could not be written after it."""
    here = Path.cwd()
    if not os.access(here, os.W_OK) or (LISTS.exists() and not os.access(LISTS, os.W_OK)):
        raise InputError(f"{here} cannot be written to. Cure: call this in your checkout of the project.")
    if (edited := edits()) and not force:
        raise InputError(f"{edited}, which would be lost. Cure: keep a copy, then call this with --force.")


def split_table(dataset: OwnSet, parted: Split, groups: Groups, name: str) -> tuple[Path, str]:
    """The list of videos with their splits, and its path: another one for another list, so that DVC sees the change."""
    names = list(dataset.classes())
    # A folder named 1 or 0.5 is a class's name; as a label it would be read as a number.
    renumbered = not dataset.numbered and not all(map(is_name, names))
    named = renumbered or (dataset.numbered and dataset.named)
    rows = [["path", "label", *(["label_name"] if named else []), "split", "group"]]
    for video in dataset.videos:
        # In front of a sign that a spreadsheet would run as a formula.
        path = video.path if guarded(video.path) == video.path else f"./{video.path}"
        label = str(names.index(video.label)) if renumbered else _label(dataset, video)
        rows.append([path, label, *([video.label] if named else []), parted.of[video.path],
                     video.group or f"g{groups.of[video.path]}"])  # fmt: skip
    text = _csv(rows)
    with tempfile.TemporaryDirectory(prefix="everest-init-") as folder:
        # As the download will read it: what it refuses is not written.
        write_text(Path(folder, LISTS.name, f"{name}.csv"), text)
        from_table(Path(folder, LISTS.name, f"{name}.csv"), dataset.folder)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return LISTS / f"{name}-{digest}.csv", text


def _label(dataset: OwnSet, video: OwnVideo) -> str:
    given = dataset.numbered and video.label
    return SEPARATOR.join(map(str, video.numbers or [video.number])) if given else video.label


def write(dataset: OwnSet, table: Path, content: str, text: str, name: str) -> str | None:
    """Put all files in their places, params.yaml last; the path of the list of those left out, if any."""
    left_out = None
    try:
        LISTS.mkdir(exist_ok=True)
        write_text(table, content)
        path = LISTS / f"{name}-left-out.csv"
        if dataset.left_out:
            rows = [[printable(cell) for cell in (v.path, v.label, v.reason, v.message)] for v in dataset.left_out]
            write_text(path, _csv([["path", "label", "reason", "message"], *rows]))
            left_out = str(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier set
        write_text(PARAMS, text)
    except OSError as error:
        raise InputError(
            f"{error.filename or LISTS}: {error.strerror}. Cure: call this where files can be written."
        ) from None
    return left_out


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    Writer(text, lineterminator="\n").rows(rows)
    return text.getvalue()
