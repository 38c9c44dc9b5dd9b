"""`everest export`: a model in other programs' formats, with a card that says what it is and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.inference.export import HUGGINGFACE, USUAL
from pipeline.serving.card import KIND, UNKNOWN, card
from pipeline.system.files import write_text

#: Where both a person and Hugging Face look for the card.
CARD = "README.md"


def export(
    model: str, out: str = "outputs/export", to: Sequence[str] = USUAL, licence: str = UNKNOWN, runs: int = 10
) -> dict[str, Any]:
    """Export a classifier, compare it with the original, and write its card.

    Args:
        model: as for `everest predict`.
        to: some of pt2, onnx and huggingface.
        licence: an identifier (Apache-2.0, cc-by-nc-4.0) for the card.
        runs: timed forwards for each entry of the latency table.

    Returns:
        What :func:`pipeline.inference.export.command` returns, with the card among the files.

    Raises:
        InputError: an unknown format, a licence that is no identifier, packages that are not installed, or a file of
            others where one is to be written.
        EverestError: an exported model differs from the original.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,60}", licence):
        raise InputError(f"licence = {licence!r}: expected an identifier. Cure: --licence Apache-2.0, for example.")
    from pipeline.inference.export import command
    from pipeline.inference.models import load
    from pipeline.serving.origins import origins_of

    _check_card(Path(out) / CARD)
    exported = command(model, out, to, runs)
    folder, info, _ = load(model)
    title = model if model.startswith("models:/") else folder.resolve().name
    text = card(info, origins_of(folder), exported, title, licence)
    places = [Path(out) / CARD, *([Path(out) / HUGGINGFACE / CARD] if HUGGINGFACE in to else [])]
    for place in places:
        write_text(place, text)
    exported["files"] += map(str, places)
    return exported


def _check_card(place: Path) -> None:
    """Refuse to write over a page that no export wrote."""
    if place.exists() and not (place.is_file() and f"\n{KIND}\n" in place.read_text("utf-8", errors="replace")):
        raise InputError(f"{place} is no card of `everest export`, and would be lost. Cure: another --out.")
