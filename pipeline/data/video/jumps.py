"""Where a video may be entered other than at its start: what ingest proves of a file and the manifest keeps."""

from __future__ import annotations

import bisect
from dataclasses import dataclass


@dataclass(frozen=True)
class Jumps:
    """Entries of which ingest has seen that decoding from there on gives the pictures of the sequential pass.

    Attributes:
        entries: (number of a frame, its time in the stream's units), ascending; empty where nothing is proven.
        reorder: places by which storing and showing order differ at most.
        skippable: pictures that no other refers to may be left out while decoding.

    Wherever there are entries, packets and pictures are known to correspond one to one by their times.
    """

    entries: tuple[tuple[int, int], ...] = ()
    reorder: int = 0
    skippable: bool = False

    def __bool__(self) -> bool:
        return bool(self.entries)

    def before(self, number: int) -> tuple[int, int]:
        """The last entry at or before a frame."""
        return self.entries[bisect.bisect_right(self.entries, number, key=lambda entry: entry[0]) - 1]

    def text(self) -> str:
        """As the manifest keeps it, "" for none: `2 skip 0:0 48:24576`."""
        if not self.entries:
            return ""
        kind = "skip" if self.skippable else "all"
        return " ".join([str(self.reorder), kind, *(f"{number}:{time}" for number, time in self.entries)])

    @classmethod
    def parse(cls, text: str) -> Jumps:
        """The inverse of :meth:`text`.

        Raises:
            ValueError: text of another form.
        """
        if not text:
            return cls()
        try:
            reorder, kind, *entries = text.split()
            pairs = tuple((int(number), int(time)) for number, _, time in (entry.partition(":") for entry in entries))
            if kind not in ("skip", "all") or not pairs or pairs[0][0] != 0:
                raise ValueError
            return cls(pairs, int(reorder), kind == "skip")
        except ValueError:
            raise ValueError(f"no list of entries: {text[:80]!r}") from None
