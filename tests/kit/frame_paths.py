"""Every way in which the product reads frames, held against one plain sequential pass."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_benchmark import params
from video_matrix import Kind, reference

from pipeline import layout
from pipeline.bench.clips import video_file
from pipeline.data import manifest
from pipeline.data.cache.build import FrameRule, MapRule, plan
from pipeline.data.cache.publish import build, publish
from pipeline.data.cache.read import Cache
from pipeline.data.clips.videos import VideoSource
from pipeline.data.frame_source import FrameSource, VideoFile
from pipeline.data.frame_step import Step
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.ingest.measure import measure
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.verdicts import verdict
from pipeline.data.pixels.normalise import model_pixels
from pipeline.data.video import open_video
from pipeline.data.video.shrink import shrink
from pipeline.evaluation.benchmark import TestSet, reader
from pipeline.evaluation.views import video_views
from pipeline.inference.isolated import IsolatedViews
from pipeline.params import IngestParams
from pipeline.pictures.look import read_window

STEP = 4


class Matrix:
    """Files of some kinds: what ingest says of each, and the pictures that each must give.

    Attributes:
        refused: kind -> ingest's reason, where that is another one than expected.
        pictures: kind -> every picture of a sequential pass, for the usable ones.
    """

    def __init__(self, folder: Path, kinds: dict[str, Kind], limits: IngestParams) -> None:
        self.folder = folder
        self.files: dict[str, VideoFile] = {}
        self.pictures: dict[str, list[np.ndarray]] = {}
        self.refused: dict[str, str] = {}
        self.rates: dict[str, float] = {}
        for place, (name, kind) in enumerate(kinds.items()):
            path = folder / f"{place:03d}{kind.suffix}"
            kind.write(path)
            measured = measure(path)
            reason = verdict(measured, limits)
            if reason != kind.reason:
                self.refused[name] = f"{reason}: {measured.message}"
            if reason:
                continue
            self.pictures[name] = reference(path, kind.shown)
            self.rates[name] = measured.fps
            self.files[name] = video_file(name, path, measured)

    @property
    def in_sequence(self) -> list[str]:
        """Kinds of which nothing was proven."""
        return [name for name, file in self.files.items() if not file.jumps]

    def wrong_by_reader(self) -> dict[str, int]:
        """Frames of the reader itself, wanted in every pattern, that are not those of the pass: kind -> how many."""
        wrong = {}
        for name, file in self.files.items():
            truth = self.pictures[name]
            wrong[name] = abs(len(truth) - file.frames)
            for wanted in patterns(len(truth)):
                with open_video(file.path, file.reader, file.frames, file.jumps) as video:
                    wrong[name] += _differ(video.frames(wanted), truth, wanted)
            with open_video(file.path) as video:  # as whoever knows nothing of the file
                wrong[name] += _differ(list(video.all_frames()), truth, range(len(truth)))
                wrong[name] += video.num_frames != len(truth)
        return wrong

    def wrong_by_loader(self) -> dict[str, int]:
        """The same for clips read straight from the video files."""
        return self._wrong_in(VideoSource(list(self.files.values()), 1024))

    def wrong_by_cache(self, keep_every: int) -> dict[str, int]:
        """The same for a raw cache that keeps every so many frames."""
        scratch = self.folder / f"cache-{keep_every}"
        units = plan(
            list(self.files.values()),
            FrameRule("raw", 90, 1024, keep_every),
            MapRule("pixels", Step(STEP), 64, 1024),
            64 << 20,
        )
        build(units, scratch / "store", 1)
        publish("matrix", units, scratch / "store", scratch / "cache")
        return self._wrong_in(Cache.open(scratch / "cache"))

    def wrong_by_predict(self) -> dict[str, int]:
        """Clips of predict's views with a frame that is not the pass's: kind -> how many."""
        how = {"frames": 8, "step": 3, "segments": 3, "crops": 3, "grid": 1}
        with closing(IsolatedViews(Limits(120, 4 << 30), workers=1, rule=(16, 64))) as isolated:
            return {
                name: _clips_that_differ(isolated.read(file.path, how, Step(how["step"])), self._views(name, how))
                for name, file in self.files.items()
            }

    def wrong_by_show(self) -> dict[str, int]:
        """The same for the windows that show draws: from the start of the video, its middle and its end."""
        with IsolatedFrames.by_params() as isolated:
            return {
                name: sum(
                    self._window_differs(isolated, name, start) for start in (0.0, None, 0.9 * self._seconds(name))
                )
                for name in self.files
            }

    def wrong_by_evaluate(self, source: str) -> dict[str, int]:
        """The same for the test views of an evaluation.

        Args:
            source: "videos", or "cache" of every second frame.
        """
        settings = params(
            clip__source=source,
            evaluate__segments=3,
            evaluate__crops=3,
            benchmarks__small__data__frame_step=2,
            pretrain__frame_selection__mode="none",
        )
        if source == "cache":
            self.wrong_by_cache(2)
        home = self.folder / "project"
        home.mkdir(exist_ok=True)
        with contextlib.chdir(home):
            self._describe()
            if source == "cache":
                layout.cache_dir("small").parent.mkdir(parents=True, exist_ok=True)
                layout.cache_dir("small").symlink_to(self.folder / "cache-2" / "cache")
            tests = TestSet.load("small")
            read = reader(settings, "small", tests)
            short_side, grid = (64, 1) if source == "videos" else (1024, 2)
            step = settings.benchmark("small").data.frame_step
            how = {"frames": settings.clip.frames, "step": step, "segments": 3, "crops": 3, "grid": grid}
            return {
                name: _clips_that_differ(read(number), self._views(name, how, short_side))
                for number, name in enumerate(tests.ids)
            }

    def _describe(self) -> None:
        """Write the manifest of all usable files, as test videos of the benchmark `small`."""
        layout.raw_dir("small").parent.mkdir(parents=True, exist_ok=True)
        if not layout.raw_dir("small").exists():
            layout.raw_dir("small").symlink_to(self.folder)
        rows: list[dict[str, Any]] = [
            {
                **{name: ("" if kind == "string" else 0) for name, kind in manifest.SCHEMA.items()},
                "video_id": name,
                "path": file.path.name,
                "split": "test",
                "splits": "test",
                "sha256": file.sha256,
                "frames_decoded": file.frames,
                "width": file.width,
                "height": file.height,
                "reader": file.reader,
                "jumps": file.jumps,
                "status": "ok",
            }
            for name, file in self.files.items()
        ]
        layout.manifest_dir("small").mkdir(parents=True, exist_ok=True)
        manifest.save(manifest.from_rows(rows), layout.manifest_dir("small") / "manifest.parquet")

    def _views(self, name: str, how: dict[str, int], short_side: int = 1024) -> np.ndarray:
        truth = self.pictures[name]
        return video_views(lambda wanted: shrink(np.stack([truth[n] for n in wanted]), short_side), len(truth), **how)

    def _seconds(self, name: str) -> float:
        return len(self.pictures[name]) / self.rates[name]

    def _window_differs(self, isolated: IsolatedFrames, name: str, start: float | None) -> bool:
        truth, count, step, size = self.pictures[name], 24, 2, 64
        result, _ = read_window(isolated, self.files[name].path, count, Step(step), start, size)
        length = min((count - 1) * step, len(truth) - 1)
        last = len(truth) - 1 - length
        first = last // 2 if start is None else min(round(start * self.rates[name]), last)
        numbers = np.linspace(first, first + length, count).round().astype(int)
        expected = model_pixels(torch.from_numpy(np.stack([truth[n] for n in numbers]))[None], size, "cpu")
        return not torch.equal(result, expected)

    def _wrong_in(self, source: FrameSource) -> dict[str, int]:
        wrong = dict.fromkeys(self.files, 0)
        for row, name in enumerate(source.ids):
            truth = self.pictures[name]
            for wanted in patterns(len(truth), source.grid):
                wrong[name] += _differ(source.frames(row, wanted), truth, wanted)
        return wrong | {name: 1 for name in self.files if name not in source.ids}


def patterns(count: int, grid: int = 1) -> list[list[int]]:
    """Numbers of frames as the product asks for them: all, every so many, clips that begin anywhere, single ones."""
    wanted = [list(range(0, count, step)) for step in (1, 2, STEP, 7)]
    wanted += [list(range(start, count, STEP)) for start in (9, count // 2, count - 13)]
    wanted += [list(range(start, start + 16)) for start in (5, count // 3, count - 16)]
    wanted += [[count - 1], [count // 2], [13, 13, 29, 29]]
    return [kept for numbers in wanted if (kept := [n for n in numbers if n % grid == 0 and n < count])]


def _clips_that_differ(found_XTHWC: np.ndarray, expected_XTHWC: np.ndarray) -> int:
    if found_XTHWC.shape != expected_XTHWC.shape:
        return len(expected_XTHWC)
    return sum(not np.array_equal(result, clip) for result, clip in zip(found_XTHWC, expected_XTHWC, strict=True))


def _differ(pictures: Any, truth: Sequence[np.ndarray], wanted: Sequence[int]) -> int:
    rows = list(pictures)
    same = sum(np.array_equal(picture, truth[number]) for picture, number in zip(rows, wanted, strict=False))
    return len(wanted) - same + abs(len(rows) - len(wanted))
