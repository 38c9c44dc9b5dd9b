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
from typing import Literal

import numpy as np

from pipeline import layout
from pipeline.data import sampling
from pipeline.data.arrays import TUBELET, U8, Ints
from pipeline.data.cache.maps import window_maps
from pipeline.data.cache.read import Cache
from pipeline.data.clips.videos import VideoSource
from pipeline.data.frame_source import FrameSource, usable_videos
from pipeline.data.frame_step import Step, step_of, tick_frames
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.system.sealed import read_table

Selection = Literal["none", "cached", "online"]
#: In the metadata of a corpus file: frames between those of a clip.
FRAME_STEP = "frame_step"


@dataclass(frozen=True)
class ClipRule:
    """How a clip is cut from a video.

    Attributes:
    frames: T of the clip that the model sees.
    selection: `none` takes consecutive frames at the step; `cached` chooses the most informative slots by the
    stored maps; `online` hands over all candidate slots, for the model's embedding to choose from.
    oversample, window, keep_ratio: of frame selection (METHOD section 3); as they stand they choose nothing.
    random: False takes the middle of the video, always the same.
    """

    frames: int
    selection: Selection = "none"
    oversample: float = 1.0
    window: str = "grow"
    keep_ratio: float = 1.0
    random: bool = True


@dataclass(frozen=True)
class Member:
    """Some rows of one source, and what lies between the frames of a clip of it."""

    source: FrameSource
    rows: Ints
    step: Step


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
        member, place = self.locate(row)
        return member.source.ids[place]

    def label(self, row: int) -> int:
        member, place = self.locate(row)
        return member.source.label(place)

    def label_sets(self, rows: Ints | None = None) -> list[tuple[int, ...]]:
        """All classes of these rows (None: of every row); [] of a set whose videos have one class at most."""
        if not any(member.source.label_sets for member in self.members):
            return []
        sets_of_clips = []
        for row in range(len(self)) if rows is None else rows.tolist():
            member, place = self.locate(row)
            sets = member.source.label_sets
            sets_of_clips.append(sets[place] if sets else ())
        return sets_of_clips

    def labels(self) -> Ints:
        """The label of each row."""
        return np.asarray([self.label(row) for row in range(len(self))], dtype=np.int64)

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of a video's frames as read."""
        member, place = self.locate(row)
        return member.source.size(place)

    def frame_indices(self, rows: Ints, seed: int, epoch: int, samples: Ints) -> Ints:
        """The frame numbers [B, T] of these rows' clips; see :class:`ClipRule`."""
        rule = self.rule
        places_B = (
            sampling.uniforms(seed, epoch, samples, "window", 1)[:, 0] if rule.random else np.full(len(rows), 0.5)
        )
        clips = []
        for row, u in zip(rows, places_B.tolist(), strict=True):
            member, place = self.locate(int(row))
            count, step = member.source.num_frames(place), member.source.step_in(place, member.step)
            if rule.selection == "none":
                clips.append(sampling.uniform_clip(count, rule.frames, step, u, member.source.grid))
            elif rule.selection == "cached" and isinstance(step, float):
                # Slots begin where maps do: chosen among those places, as if the video had their frames alone.
                places = tick_frames(count, step)
                clips.append(places[self._candidates(len(places), 1, u, 1)])
            else:
                clips.append(self._candidates(count, step, u, self._grid(member)))
        clips_BN = np.stack(clips)
        return self._chosen(rows, clips_BN, seed, epoch, samples) if rule.selection == "cached" else clips_BN

    def _candidates(self, count: int, step: int | float, u: float, grid: int) -> Ints:
        rule = self.rule
        return sampling.candidate_clip(
            count, rule.frames, step, u, oversample=rule.oversample, window=rule.window, grid=grid
        )

    def fill(self, row: int, frame_indices: Ints, target_THWC: U8) -> None:
        """Write the frames of one clip, of :meth:`size`, into the top left of uint8 [T, H, W, 3].

        Raises:
            ClipError: naming the video and the reason.
        """
        member, place = self.locate(row)
        member.source.fill(place, frame_indices, target_THWC)

    def _chosen(self, rows: Ints, candidates_BN: Ints, seed: int, epoch: int, samples: Ints) -> Ints:
        import torch

        from models.frames import choose_slots, slot_frames

        rule = self.rule
        maps = []
        for row, numbers in zip(rows, candidates_BN, strict=True):
            member, place = self.locate(int(row))
            stored = member.source.maps(place)
            if stored is None:
                raise InputError("frame selection needs distance maps. Cure: read from a cache, or mode: online.")
            starts = numbers[::TUBELET]
            if not member.step.own:
                maps.append(window_maps(stored, starts, member.step.frames))
            else:
                places = tick_frames(member.source.num_frames(place), member.source.step_in(place, member.step))
                maps.append(window_maps(stored, np.searchsorted(places, starts), 1))
        slots = candidates_BN.shape[1] // TUBELET
        noise_BA = torch.from_numpy(sampling.uniforms(seed, epoch, samples, "slots", slots))
        distance_BAL = torch.from_numpy(np.stack(maps))
        slots_BS = choose_slots(distance_BAL, rule.frames // TUBELET, rule.keep_ratio, noise_BA)
        return np.take_along_axis(candidates_BN, slot_frames(slots_BS, TUBELET).numpy(), axis=1)

    def _grid(self, member: Member) -> int:
        # Maps exist for slots that start on multiples of the frame step.
        return member.step.frames if self.rule.selection == "cached" else member.source.grid

    def _check(self, member: Member) -> None:
        source = member.source
        if member.step.own and source.grid > 1:
            raise InputError(
                f"a frame step of {member.step} needs all frames of a video, the cache holds every {source.grid}. "
                "Cure: preprocess.frames: all."
            )
        if member.step.frames % source.grid:
            raise InputError(
                f"a frame step of {member.step} needs frames that the cache does not hold (it holds every "
                f"{source.grid}.). Cure: preprocess with a keep_every that divides the frame step."
            )
        if self.rule.selection == "cached" and source.map_step != member.step.entry:
            made_for = source.map_step or "none"
            raise InputError(
                f"the distance maps were made for frame step {made_for}, the clips have {member.step}. "
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


def _frame_step(metadata: dict[bytes, bytes] | None, path: Path, name: str) -> Step:
    step = (metadata or {}).get(FRAME_STEP.encode())
    if step is None:
        raise InputError(f"{path} does not say its clips' frame step. Cure: `everest corpus {name}` writes it anew.")
    return Step.parse(step.decode())


def open_source(params: Params, benchmark: str) -> FrameSource:
    """Where `clip.source` says that the benchmark's frames are read: its cache, or its video files.

    Raises:
        InputError: no cache, or no manifest.
    """
    if params.clip.source == "cache":
        return Cache.open(layout.cache_dir(benchmark))
    manifest_path = layout.manifest_dir(benchmark) / "manifest.parquet"
    raw = layout.raw_dir(params.benchmark(benchmark).data.raw or benchmark)
    return VideoSource(usable_videos(manifest_path, raw), params.preprocess.short_side)


def labelled_clips(params: Params, benchmark: str, split: str, *, random: bool, fraction: float = 1.0) -> ClipDataset:
    """The labelled clips of one split: random ones for training, the middle of each video for validation.

    Args:
        fraction: share of each class's videos that is used, at least one; the same ones for every seed.

    Raises:
        InputError: no cache, or no labelled video in the split.
    """
    source = open_source(params, benchmark)
    rows = share_of_each_class(labelled_rows(source, benchmark, split), source, fraction)
    member = Member(source, rows, step_of(params, benchmark))
    return ClipDataset([member], ClipRule(params.clip.frames, random=random))


def labelled_rows(source: FrameSource, benchmark: str, split: str) -> Ints:
    """The rows of one split that have a label.

    Raises:
        InputError: there is none.
    """
    rows = np.asarray([row for row in source.rows(split) if source.label(row) >= 0], dtype=np.int64)
    if not len(rows):
        raise InputError(
            f"{benchmark} has no labelled video in the split {split!r}. Cure: another split, or check data.split."
        )
    return rows


def share_of_each_class(rows: Ints, source: FrameSource, fraction: float) -> Ints:
    """A share of each class's rows, at least one, chosen by the videos' ids alone and kept in order.

    A row of several classes counts in each of them, so that with it more than the share may be chosen in all.
    """
    if fraction == 1.0:
        return rows
    by_class: dict[int, list[int]] = {}
    for row in rows.tolist():
        for label in source.label_sets[row] if source.label_sets else [source.label(row)]:
            by_class.setdefault(label, []).append(row)

    def place(row: int) -> bytes:
        return hashlib.sha256(source.ids[row].encode()).digest()

    chosen = {
        row
        for members in by_class.values()
        for row in sorted(members, key=place)[: max(1, round(fraction * len(members)))]
    }
    return np.asarray(sorted(chosen), dtype=np.int64)
