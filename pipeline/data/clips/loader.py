"""Batches of clips: a pure function of (seed, epoch, step, rank layout), read ahead by threads.

An optimizer step takes `global_batch` rows of the epoch's order; ranks and accumulation steps take slices of
that list, so the step's set does not depend on them, and resuming is calling `epoch` with a start. Nothing is
remembered but the videos that could not be read, so as to name each once and to count them.

Threads, not processes: JPEG decoding, video decoding and copying from the mapped cache all run outside
Python's lock, frames go straight into the batch (page-locked where there is a GPU), and nothing crosses a
process border.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from pipeline.data import sampling
from pipeline.data.arrays import Ints
from pipeline.data.balance import balanced_order
from pipeline.data.batch import Batch
from pipeline.data.clips.dataset import ClipDataset
from pipeline.data.frame_source import ClipError
from pipeline.data.pixels.buffers import Buffers
from pipeline.errors import EverestError, InputError, parted

log = logging.getLogger(__name__)

#: Batches that are read ahead.
PREFETCH = 2
#: Other videos that are tried for one that cannot be read.
REPLACEMENTS = 5
#: The share of a training's videos that may turn out unreadable; with more it would be a training on another set. One
#: video always may.
UNREADABLE = 0.02
#: A batch that takes longer is reported with the videos that are being read.
STALL_SECONDS = 300.0


class ClipLoader:
    """Micro-batches of one rank.

    Args:
        dataset: what to read.
        seed: of order, windows, crops and all else.
        global_batch: videos of one optimizer step over all ranks (repetitions are not counted, METHOD section 7).
        rank, world: this process of how many.
        accumulate: micro-batches of one optimizer step.
        repeated: clips of each video in a batch (repeated augmentation).
        pairs: clips are mixed with their neighbours, so that videos are read in pairs.
        shuffle: a new order every epoch; otherwise the data set's.
        workers: threads that read ahead; 0 reads when asked.
        drop_last: leave out the last, smaller step. If kept, its rows are shared out as evenly as they go, each
            once, and a rank may get fewer batches than another.
        replace: replace a clip that cannot be read by another one, chosen by (seed, epoch, sample); False raises. None
            replaces a training's, until more than the share UNREADABLE of its videos were met; True however many.
        balanced: an epoch draws as many clips of each class instead of each video once.

    Raises:
        InputError: the batch does not divide, into pairs where they are asked for, or the data set is smaller than it.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        repeated: int = 1,
        pairs: bool = False,
        shuffle: bool = True,
        workers: int = 0,
        drop_last: bool = True,
        replace: bool | None = None,
        balanced: bool = False,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        if global_batch % (world * accumulate):
            raise InputError(
                f"a global batch of {global_batch} does not divide into {world} ranks x {accumulate} accumulation "
                "steps. Cure: change compute.ranks, accumulate or batch."
            )
        if pairs and global_batch // (world * accumulate) % 2:
            # Repetitions would be mixed with each other, and who is whose partner would depend on the ranks.
            raise InputError(
                f"mixup and cutmix mix pairs of clips of two videos, and a global batch of {global_batch} over {world} "
                f"ranks x {accumulate} accumulation steps is {global_batch // (world * accumulate)} at a time, an odd "
                f"number. Cure: a batch that is a multiple of {2 * world * accumulate}, or both 0.0."
            )
        if drop_last and len(dataset) < global_batch:
            raise InputError(
                f"{len(dataset)} videos do not fill one global batch of {global_batch}. Cure: a smaller batch."
            )
        self.dataset = dataset
        self.seed, self.global_batch, self.rank, self.world = seed, global_batch, rank, world
        self.accumulate, self.repeated, self.shuffle = accumulate, repeated, shuffle
        self.workers, self.drop_last = workers, drop_last
        # Training clips may be replaced; a deterministic clip is an evaluation's and never is.
        self.replace = dataset.rule.random if replace is None else replace
        self._most_unreadable = len(dataset) if replace else max(1, int(UNREADABLE * len(dataset)))
        self._unreadable: set[int] = set()
        self.stall_seconds = stall_seconds
        self._labels = dataset.labels() if balanced else None
        self._pool: ThreadPoolExecutor | None = None
        self._buffers = Buffers(page_locked=True)
        self._reading: dict[int, str] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        full, rest = divmod(len(self.dataset), self.global_batch)
        return full + (0 if self.drop_last or not rest else 1)

    def micro_batches(self, rank: int) -> int:
        """A rank's micro-batches of an epoch: in a last, smaller step some may get fewer, rank 0 none fewer."""
        full, rest = divmod(len(self.dataset), self.global_batch)
        shared = 0 if self.drop_last else min(rest, self.accumulate * self.world)
        return full * self.accumulate + len(range(rank, shared, self.world))

    def rows(self, epoch: int, step: int) -> Ints:
        """The rows of one optimizer step over all ranks, in order."""
        order = self._order(epoch) % len(self.dataset)
        return order[step * self.global_batch : (step + 1) * self.global_batch]

    def _order(self, epoch: int) -> Ints:
        """The draws of an epoch: a row, plus the data set's length for each time that it came before."""
        if self._labels is not None:
            return balanced_order(self.seed, epoch, self._labels)
        return sampling.epoch_order(self.seed, epoch, len(self.dataset), self.shuffle)

    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[Batch]:
        """This rank's micro-batches of an epoch, from its `start_micro_step`-th to the end.

        Raises:
            ClipError: a clip cannot be read and may not be replaced.
            EverestError: too many videos cannot be read (see `replace`), or reading stalls.
        """
        micro_rows = self._micro_rows(epoch, start_micro_step)
        if not self.workers:
            for rows in micro_rows:
                yield _Pending(self, rows, epoch, None).finish()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="clips")
        waiting: deque[_Pending] = deque()
        try:
            for rows in micro_rows:
                waiting.append(_Pending(self, rows, epoch, self._pool))
                if len(waiting) > PREFETCH:
                    yield waiting.popleft().finish()
            while waiting:
                yield waiting.popleft().finish()
        finally:
            for pending in waiting:
                pending.cancel()

    def close(self) -> None:
        """End the threads; running reads are waited for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _found_unreadable(self, row: int, error: ClipError) -> None:
        """Name a training's video that cannot be read, once.

        Raises:
            EverestError: there are too many by now.
        """
        if row in self._unreadable:
            return
        self._unreadable.add(row)
        count, allowed = len(self._unreadable), self._most_unreadable
        if count > allowed:
            raise EverestError(
                f"{count} of {len(self.dataset)} videos of this training could not be read, {allowed} may be replaced "
                f"by others. The last: {parted(error)[0]}. Cure: {self.dataset.locate(row)[0].source.cure}"
            )
        log.warning("clips: %s; another video takes its place.", parted(error)[0])

    def _micro_rows(self, epoch: int, start: int) -> Iterator[Ints]:
        order = self._order(epoch)
        parts = self.accumulate * self.world
        for micro in range(start, self.steps_per_epoch * self.accumulate):
            step, turn = divmod(micro, self.accumulate)
            rows = order[step * self.global_batch : (step + 1) * self.global_batch]
            share = np.array_split(rows, parts)[turn * self.world + self.rank]
            if len(share):
                yield share


class _Pending:
    """One batch on its way: its clips are read straight into it by the pool's threads (or by `finish` itself)."""

    def __init__(self, loader: ClipLoader, rows: Ints, epoch: int, pool: ThreadPoolExecutor | None) -> None:
        self._loader, self._epoch = loader, epoch
        repeated = loader.repeated
        # Repetitions follow each other in blocks, so that neighbours (which mixup pairs) are different videos.
        draws = np.tile(rows, repeated)
        self._rows = draws % len(loader.dataset)
        self._samples = draws * repeated + np.repeat(np.arange(repeated), len(rows))
        dataset = loader.dataset
        self._frames = dataset.frame_indices(self._rows, loader.seed, epoch, self._samples)
        self._sizes = np.asarray([dataset.size(int(row)) for row in self._rows], dtype=np.int64)
        # (video id, reason), no exceptions: one's traceback would hold this batch, and so its memory, in a circle.
        self._errors: dict[int, tuple[str, str]] = {}
        height, width = self._sizes.max(axis=0)
        self._clips = loader._buffers.take((len(self._rows), self._frames.shape[1], int(height), int(width), 3))
        count = len(self._rows)
        self._futures: list[Future[None]] = []
        if pool is not None:
            pieces = np.array_split(np.arange(count), min(count, 2 * loader.workers))
            self._futures = [pool.submit(self._read_some, piece) for piece in pieces]

    def finish(self) -> Batch:
        """Wait for the clips, replace those that cannot be read, and hand over."""
        if self._futures:
            self._wait()
        else:
            self._read_some(np.arange(len(self._rows)))
        for place in sorted(self._errors):
            self._replace(place)
        dataset = self._loader.dataset
        return Batch(
            self._clips,
            torch.from_numpy(self._sizes),
            torch.tensor([dataset.label(int(row)) for row in self._rows], dtype=torch.int64),
            torch.from_numpy(self._rows),
            torch.from_numpy(self._samples),
            torch.from_numpy(self._frames),
            self._loader.seed,
            self._epoch,
            len(self._errors),
            list(self._errors.values()),
            dataset.label_sets(self._rows),
        )

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()

    def _wait(self) -> None:
        for future in self._futures:
            try:
                future.result(timeout=self._loader.stall_seconds)
            except TimeoutError:
                reading = ", ".join(sorted(set(self._loader._reading.values()))) or "none"
                raise EverestError(
                    f"reading a batch took longer than {self._loader.stall_seconds:.0f} s; being read: {reading}. "
                    "Cure: check the disk; where a decoder hangs, run `everest download` so that ingest finds it."
                ) from None

    def _read_some(self, places: Ints) -> None:
        me = threading.get_ident()
        for place in places:
            row = int(self._rows[place])
            self._loader._reading[me] = self._loader.dataset.video_id(row)
            try:
                self._put(int(place), row, self._frames[place])
            except ClipError as error:
                self._errors[int(place)] = error.video_id, error.reason
        self._loader._reading.pop(me, None)

    def _put(self, place: int, row: int, frames: Ints) -> None:
        clip = self._clips[place].numpy()
        height, width = self._loader.dataset.size(row)
        self._loader.dataset.fill(row, frames, clip)
        if (height, width) != clip.shape[1:3]:
            clip[:, height:] = 0
            clip[:, :height, width:] = 0

    def _replace(self, place: int) -> None:
        loader = self._loader
        if not loader.replace:
            raise ClipError(*self._errors[place])
        error = ClipError(*self._errors[place])
        loader._found_unreadable(int(self._rows[place]), error)
        sample = self._samples[place : place + 1]
        draws = sampling.uniforms(loader.seed, self._epoch, sample, "replacement", REPLACEMENTS)[0]
        for draw in draws:
            row = int(draw * len(loader.dataset))
            rows = np.asarray([row], dtype=np.int64)
            frames = loader.dataset.frame_indices(rows, loader.seed, self._epoch, sample)[0]
            height, width = loader.dataset.size(row)
            self._grow(height, width)
            try:
                self._put(place, row, frames)
            except ClipError as another:
                loader._found_unreadable(row, another)
                continue
            self._rows[place], self._frames[place], self._sizes[place] = row, frames, (height, width)
            return
        raise EverestError(
            f"{parted(error)[0]}; {REPLACEMENTS} other videos that were tried for it do not read either. "
            f"Cure: {loader.dataset.locate(int(self._rows[place]))[0].source.cure}"
        ) from error

    def _grow(self, height: int, width: int) -> None:
        count, length, old_height, old_width, channels = self._clips.shape
        if height <= old_height and width <= old_width:
            return
        larger = self._loader._buffers.take((count, length, max(height, old_height), max(width, old_width), channels))
        larger.zero_()
        larger[:, :, :old_height, :old_width] = self._clips
        self._clips = larger
