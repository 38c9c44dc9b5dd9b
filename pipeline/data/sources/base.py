"""What every source of videos gives: files in the raw folder, and a list that says which video is what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.data.annotations.base import Listing


@dataclass(frozen=True)
class PlannedFile:
    """One file that a download would fetch; `bytes` is None where the server does not tell."""

    name: str
    url: str
    bytes: int | None
    present: bool


class Source(Protocol):
    """Where a benchmark's videos come from."""

    def plan(self, raw: Path) -> list[PlannedFile]:
        """What :meth:`prepare` would fetch into `raw`. Fetches nothing but sizes."""

    def prepare(self, raw: Path) -> Listing:
        """Bring the videos into `raw` (continuing earlier attempts) and list them.

        Raises:
            InputError: something that the user must mend or place is wrong or missing.
            EverestError: the world failed (network, disk); starting again continues.
        """
