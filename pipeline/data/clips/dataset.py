"""Which clips there are, and which frames of a video each of them reads.

Videos are those of one or several caches, or the video files themselves. A clip's frames are a pure function of (seed,
epoch, sample), where a sample is a row and its repetition. Frame selection from the cache looks at the stored distance
maps only, so no frame is decoded that is not used.

Shapes: B clips, T frames, A candidate slots, L places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline import layout
from pipeline.data import sampling
from pipeline.data.arrays import TUBELET, U8, Ints
from pipeline.data.cache.maps import window_maps
from pipeline.data.cache.read import Cache
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.system.sealed import read_table

Selection = Literal["none", "cached", "online"]
#: In the metadata of a corpus file: frames between those of a clip.
FRAME_STEP = "frame_step"


class Source(Protocol):
    """Frames of the videos of one benchmark: a cache, or the files themselves."""

    ids: list[str]
    grid: int
    short_side: int

    def __len__(self) -> int: ...
    def num_frames(self, row: int) -> int: ...
    def size(self, row: int) -> tuple[int, int]: ...
    def label(self, row: int) -> int: ...
    def rows(self, split: str | None = None) -> list[int]: ...
    def fill(self, row: int, frame_indices: Any, target_THWC: U8) -> None: ...
    def maps(self, row: int) -> npt.NDArray[np.float16] | None: ...


@dataclass(frozen=True)
class ClipRule:
    """How a clip is cut from a video.

    Attributes:
    frames: T of the clip that the model sees.
    selection: `none` takes consecutive frames at the step; `cached` chooses the most informative slots by the
    stored maps; `online` hands over all candidate slots, for the model's embedding to choose from.
    oversample, window, keep_ratio: of frame selection (METHOD section 3).
    random: False takes the middle of the video, always the same.
    """

    frames: int
    selection: Selection = "none"
    oversample: float = 1.5
    window: str = "grow"
    keep_ratio: float = 0.3
    random: bool = True

    @property
    def frames_read(self) -> int:
        """Frames of a clip as loaded: all candidates in `online` selection."""
        if self.selection == "online":
            return TUBELET * sampling.candidate_slots(self.frames, self.oversample)
        return self.frames


@dataclass(frozen=True)
class Member:
    """Some rows of one source, at its frame step."""

    source: Source
    rows: Ints
    step: int


class ClipDataset:
    """Clips of one or several sources, one row for each video, numbered through."""

    def __init__(self, members: Sequence[Member], rule: ClipRule) -> None:
        self.members = list(members)
        self.rule = rule
        self._member = np.repeat(np.arange(len(self.members)), [len(member.rows) for member in self.members])
        self._row = np.concatenate([member.rows for member in self.members] or [np.zeros(0, np.int64)])
        for member in self.members:
            self._check(member)

    def __len__(self) -> int:
        return len(self._row)

    def locate(self, row: int) -> tuple[Member, int]:
        """The member that holds a row, and the row in its source."""
        return self.members[self._member[row]], int(self._row[row])

    def video_id(self, row: int) -> str:
        member, own = self.locate(row)
        return member.source.ids[own]

    def label(self, row: int) -> int:
        member, own = self.locate(row)
        return member.source.label(own)

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of a video's frames as read."""
        member, own = self.locate(row)
        return member.source.size(own)

    def frame_indices(self, rows: Ints, seed: int, epoch: int, samples: Ints) -> Ints:
        """The frame numbers [B, T] of these rows' clips; see :class:`ClipRule`."""
        rule = self.rule
        place_B = sampling.uniforms(seed, epoch, samples, "window", 1)[:, 0]
        found = []
        for row, u in zip(rows, place_B, strict=True):
            member, own = self.locate(int(row))
            count, grid = member.source.num_frames(own), self._grid(member)
            u = float(u) if rule.random else 0.5
            if rule.selection == "none":
                found.append(sampling.uniform_clip(count, rule.frames, member.step, u, grid))
            else:
                how = {"oversample": rule.oversample, "window": rule.window, "grid": grid}
                found.append(sampling.candidate_clip(count, rule.frames, member.step, u, **how))  # type: ignore[arg-type]
        if rule.selection == "cached":
            return self._chosen(rows, np.stack(found), seed, epoch, samples)
        return np.stack(found)

    def fill(self, row: int, frame_indices: Ints, target_THWC: U8) -> None:
        """Write the frames of one clip, of :meth:`size`, into the top left of uint8 [T, H, W, 3].

        Raises:
            ClipError: naming the video and the reason.
        """
        member, own = self.locate(row)
        member.source.fill(own, frame_indices, target_THWC)

    def _chosen(self, rows: Ints, candidates_BN: Ints, seed: int, epoch: int, samples: Ints) -> Ints:
        import torch

        from models.frames import choose_slots, slot_frames

        rule = self.rule
        maps = []
        for row, numbers in zip(rows, candidates_BN, strict=True):
            member, own = self.locate(int(row))
            stored = member.source.maps(own)
            if stored is None:
                raise InputError("frame selection needs distance maps. Cure: read from a cache, or mode: online.")
            maps.append(window_maps(stored, numbers[::TUBELET], member.step))
        slots = candidates_BN.shape[1] // TUBELET
        noise_BA = torch.from_numpy(sampling.uniforms(seed, epoch, samples, "slots", slots))
        distance_BAL = torch.from_numpy(np.stack(maps))
        slots_BS = choose_slots(distance_BAL, rule.frames // TUBELET, rule.keep_ratio, noise_BA)
        return np.take_along_axis(candidates_BN, slot_frames(slots_BS, TUBELET).numpy(), axis=1)

    def _grid(self, member: Member) -> int:
        # Maps exist for slots that start on multiples of the frame step.
        return member.step if self.rule.selection == "cached" else member.source.grid

    def _check(self, member: Member) -> None:
        source = member.source
        if member.step % source.grid:
            raise InputError(
                f"a frame step of {member.step} needs frames that the cache does not hold (it holds every "
                f"{source.grid}.). Cure: preprocess with a keep_every that divides the frame step."
            )
        if self.rule.selection == "cached":
            map_step = getattr(source, "map_step", 0)
            if map_step != member.step:
                raise InputError(
                    f"the distance maps were made for frame step {map_step or 'none'}, the clips have {member.step}. "
                    "Cure: `everest preprocess` again; for clip.source: videos, frame_selection.mode: none or online."
                )


def pretraining_clips(params: Params) -> ClipDataset:
    """The clips of `pretrain.corpus`, read from the caches.

    Raises:
        InputError: a cache or a corpus is missing, or does not fit the parameters.
    """
    members = []
    for name in params.pretrain.corpus:
        path = layout.corpus_file(name)
        if not path.is_file():
            raise InputError(f"{path} does not exist. Cure: `everest corpus {name}`.")
        source = open_source(params, name)
        row_of = {video: row for row, video in enumerate(source.ids)}
        table = read_table(path, f"Cure: `everest corpus {name}`.", ["video_id"])
        wanted = table["video_id"].to_pylist()
        missing = [video for video in wanted if video not in row_of]
        if missing:
            raise InputError(
                f"{len(missing)} videos of {path} are not in the {params.clip.source} of {name}, for example "
                f"{missing[0]}. Cure: `everest corpus {name}`."
            )
        rows = np.asarray([row_of[video] for video in wanted], dtype=np.int64)
        members.append(Member(source, rows, _frame_step(table.schema.metadata, path, name)))
    choice = params.pretrain.frame_selection
    rule = ClipRule(params.clip.frames, choice.mode, choice.oversample, choice.window, params.pretrain.keep_ratio)
    return ClipDataset(members, rule)


def _frame_step(metadata: dict[bytes, bytes] | None, path: Path, name: str) -> int:
    step = (metadata or {}).get(FRAME_STEP.encode())
    if step is None:
        raise InputError(f"{path} does not say its clips' frame step. Cure: `everest corpus {name}` writes it anew.")
    return int(step)


def open_source(params: Params, benchmark: str) -> Source:
    """Where `clip.source` says that the benchmark's frames are read: its cache, or its video files.

    Raises:
        InputError: no cache, or no manifest.
    """
    if params.clip.source == "cache":
        return Cache.open(layout.cache_dir(benchmark))
    from pipeline.data.clips.videos import VideoSource

    return VideoSource.open(
        layout.manifest_dir(benchmark) / "manifest.parquet",
        layout.raw_dir(params.benchmark(benchmark).data.raw or benchmark),
        params.preprocess.short_side,
    )


def read_frames(source: Source, row: int, frame_indices: npt.ArrayLike) -> U8:
    """Frames of one video by number, uint8 RGB [n, h, w, 3].

    Raises:
        ClipError: naming the video and the reason.
    """
    wanted = np.asarray(frame_indices, dtype=np.int64)
    found = np.empty((len(wanted), *source.size(row), 3), np.uint8)
    source.fill(row, wanted, found)
    return found


def labelled_clips(params: Params, benchmark: str, split: str, *, random: bool, fraction: float = 1.0) -> ClipDataset:
    """The labelled clips of one split: random ones for training, the middle of each video for validation.

    Args:
        fraction: share of each class's videos that is used, at least one; the same ones for every seed.

    Raises:
        InputError: no cache, or no labelled video in the split.
    """
    data = params.benchmark(benchmark).data
    source = open_source(params, benchmark)
    rows = np.asarray([row for row in source.rows(split) if source.label(row) >= 0], dtype=np.int64)
    if not len(rows):
        raise InputError(
            f"{benchmark} has no labelled video in the split {split!r}. Cure: another split, or check data.split."
        )
    rows = share_of_each_class(rows, source, fraction)
    return ClipDataset([Member(source, rows, data.frame_step)], ClipRule(params.clip.frames, random=random))


def share_of_each_class(rows: Ints, source: Source, fraction: float) -> Ints:
    """A share of each class's rows, at least one, chosen by the videos' ids alone and kept in order."""
    if fraction == 1.0:
        return rows
    by_class: dict[int, list[int]] = {}
    for row in rows:
        by_class.setdefault(source.label(int(row)), []).append(int(row))

    def place(row: int) -> bytes:
        return hashlib.sha256(source.ids[row].encode()).digest()

    chosen = [row for own in by_class.values() for row in sorted(own, key=place)[: max(1, round(fraction * len(own)))]]
    return np.asarray(sorted(chosen), dtype=np.int64)
