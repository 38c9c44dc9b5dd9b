"""Where a video may be entered other than at its start: how ingest proves it, and as the manifest keeps it."""

from __future__ import annotations

import bisect
import itertools
import time
from dataclasses import dataclass

from pipeline.data.video.reader import VideoError
from pipeline.data.video.stream import enter, open_stream, packets, pictures
from pipeline.data.video.survey import PacketTally, PictureDigest, Survey

#: Entries are at least so many frames apart: each one costs an opened file at ingest and saves a clip half of that.
SPACING = 24
#: An hour of video has no more entries than this.
MAX_ENTRIES = 200


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


def prove(path: str, survey: Survey, seconds: float) -> Jumps:
    """The entries of a file, of which decoding to the next one gave the very pictures of the sequential pass.

    All of them or none: a file with a keyframe that does not stand for itself is read in sequence. What lies behind an
    entry is then known not to depend on what lies before it, so clips may run across entries.

    Args:
        seconds: after so many nothing is proven.
    """
    import av

    give_up = time.monotonic() + seconds
    reorder = _reorder(survey)
    if reorder is None:
        return Jumps()
    numbers = _keyframes(survey)
    bounds = [*numbers, len(survey.times)]
    digest = PictureDigest()
    # Interlaced pictures may consist of two fields of which one is referred to; without reordering hardly any picture
    # is one that no other refers to.
    skippable = survey.codec == "h264" and survey.progressive and reorder > 0
    for number, end in itertools.pairwise(bounds):
        if time.monotonic() > give_up:
            return Jumps()
        try:
            skippable = skippable and _holds(path, survey, digest, number, end, skip=True)
            # The beginning is no entry that could fail; it is decoded again, since damaged parts may differ each time.
            if (number or not skippable) and not _holds(path, survey, digest, number, end):
                return Jumps()
        except (VideoError, av.FFmpegError):
            return Jumps()
    entries = tuple((number, survey.times[number] or 0) for number in numbers)
    return Jumps(entries, reorder, skippable)


def _reorder(survey: Survey) -> int | None:
    """Places by which the orders of storing and showing differ at most; None where that cannot be told.

    It can where packets and pictures correspond by their times and all pictures have one shape.
    """
    times, stored = survey.times, survey.packets.stored
    # What a decoder puts in place of damaged parts depends on all that it decoded before.
    if survey.damaged or len(survey.shapes) != 1 or None in times or None in stored:
        return None
    known = [time for time in times if time is not None]
    if any(later <= earlier for earlier, later in itertools.pairwise(known)):
        return None
    if sorted(time for time in stored if time is not None) != known:
        return None
    return max(abs(number - survey.place[time]) for number, time in enumerate(stored))


def _keyframes(survey: Survey) -> list[int]:
    """The frames of keyframes, thinned out; the first frame is always one."""
    spacing = max(SPACING, -(-len(survey.times) // MAX_ENTRIES))
    chosen = [0]
    for number in sorted(survey.place[key] for key in survey.packets.keyframes if key in survey.place):
        if number - chosen[-1] >= spacing:
            chosen.append(number)
    return chosen


def _holds(path: str, survey: Survey, digest: PictureDigest, number: int, end: int, skip: bool = False) -> bool:
    """Whether a file just opened and entered at a frame gives the pictures of the pass up to `end`.

    Args:
        skip: without any picture that no other refers to. Where packets are lost, a decoder may use such a one after
            all, in place of what is missing.
    """
    start = survey.times[number] or 0
    container, stream = open_stream(path)
    with container:
        if number:
            enter(container, stream, start)
        if skip:
            stream.codec_context.skip_frame = "NONREF"
        tally, upcoming = PacketTally(), number
        for picture in pictures(tally.count(packets(container, stream, path)), path):
            if upcoming == number and picture.pts is not None and picture.pts < start:
                continue
            place = survey.place.get(picture.pts, -1)
            if place < upcoming or (place > upcoming and not skip):
                return False
            if place >= end:
                break
            if digest(picture) != survey.digests[place]:
                return False
            upcoming = place + 1
            if upcoming == end:
                break
        known = [time for time in tally.stored if time is not None]
        stored = survey.packets.stored
        first = stored.index(known[0]) if known and known[0] in stored else -1
        return (upcoming == end or skip) and first >= 0 and known == stored[first : first + len(known)]
