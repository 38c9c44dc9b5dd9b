"""`everest bench serving`: how long a served model takes to answer about a video, request by request.

MLflow's own server is started with a model's folder, as `mlflow models serve` starts it, and asked about one video
after another by path and in base64, which take turns. Beside it, in the same run and in this process: the answer
without the server, and the reading of a video alone. Processor time counts the server with its children.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.bench.clips import scene
from pipeline.bench.harness import Figures, expect_at_least, expect_resolution, take_turns
from pipeline.bench.serving.server import post, processor, served
from pipeline.data.video import write_video
from pipeline.data.video.listing import find_videos

#: Seconds and frames per second of the generated videos, and their number: none comes twice in a row.
LENGTH, RATE, VIDEOS = 10, 30, 6
#: [s] that 95 of 100 answers have to take at most, on two cores with nothing else to do.
GOAL = 0.3


def command(
    model: str | None = None,
    clips: Path | None = None,
    requests: int = 40,
    resolution: int = 224,
    segments: int = 1,
    crops: int = 1,
) -> Figures:
    """Ask a served model.

    Args:
        model: as for `everest predict`; None: a fresh tiny one with these pixels and views.
        clips: a folder of videos; None generates 340x256 H.264 files of 10 s.
        requests: of each kind.
        resolution: [pixels]

    Returns:
        For each kind the median and the 95th percentile in milliseconds, processor time, the machine's load, the goal.

    Raises:
        InputError: no such model, no video, numbers below 1, pixels that no tokens cover.
        EverestError: the server does not start, or does not answer.
    """
    expect_at_least(1, requests=requests, segments=segments, crops=crops)
    expect_resolution(resolution)
    with tempfile.TemporaryDirectory(prefix="everest-bench-") as scratch:
        videos = Path(scratch) / "videos"
        videos.mkdir()
        if clips is None:
            for number in range(VIDEOS):
                write_video(videos / f"{number}.mp4", scene(number, LENGTH * RATE), fps=RATE, crf=28)
        else:
            for number, file in enumerate(find_videos([clips])):
                shutil.copy(file, videos / f"{number}{file.suffix}")
        folder = _servable(Path(scratch) / "model", model, resolution, segments, crops)
        files = sorted(videos.iterdir())
        return {**_measured(folder, files, requests), "goal_ms": 1000 * GOAL, "cores": len(os.sched_getaffinity(0))}


def _measured(folder: Path, files: Sequence[Path], requests: int) -> Figures:
    from pipeline.inference.models import load
    from pipeline.serving.limits import FOLDER, ServingLimits
    from pipeline.serving.service import Asked, Service

    info = load(str(folder))[1]
    texts = [base64.b64encode(file.read_bytes()).decode() for file in files]
    load_before = os.getloadavg()[0]
    service = Service(str(folder), ServingLimits(folder=files[0].parent))
    with contextlib.closing(service), served(folder, {FOLDER: str(files[0].parent)}) as (address, server):

        def ask(row: dict[str, str]) -> None:
            post(f"{address}/invocations", {"dataframe_records": [row]})

        def in_turn(run: Callable[[int], object]) -> Callable[[int], tuple[float, float]]:
            def one(number: int) -> tuple[float, float]:
                processors, began = processor(server), time.perf_counter()
                run(number % len(files))
                return time.perf_counter() - began, processor(server) - processors

            return one

        kinds = {
            "served by path": in_turn(lambda n: ask({"video": files[n].name})),
            "served in base64": in_turn(lambda n: ask({"base64": texts[n]})),
            "without the server": in_turn(lambda n: service.answer([Asked(path=files[n].name)])),
            "reading the video": in_turn(lambda n: service.views(files[n])),
        }
        turns = take_turns(kinds, requests, warm_up=len(files))
    return {
        "milliseconds": {kind: _summary(some, "served" in kind) for kind, some in turns.items()},
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "views": info.views.segments * info.views.crops,
        "resolution": info.pixels.resolution,
        "model": info.architecture,
        "videos": {"different": len(files), "megabytes": round(sum(map(len, texts)) * 0.75 / len(texts) / 1e6, 2)},
    }


def _summary(turns: Sequence[tuple[float, float]], served: bool) -> dict[str, float]:
    """[ms] The median and the 95th percentile; of the server also the processor's time, its mean."""
    p50, p95 = np.percentile([wall for wall, _ in turns], [50, 95])
    values = {"p50": p50, "p95": p95} | ({"processor": np.mean([cpu for _, cpu in turns])} if served else {})
    return {name: round(float(1000 * value), 1) for name, value in values.items()}


def _servable(folder: Path, model: str | None, resolution: int, segments: int, crops: int) -> Path:
    """The folder of a model with the description that MLflow serves it by."""
    from pipeline.inference.models import load
    from pipeline.tracking.store.mlmodel import write_description

    if model is not None:
        shutil.copytree(load(model)[0], folder)
    else:
        _fresh(folder, resolution, segments, crops)
    write_description(folder, "bench", "bench")
    return folder


def _fresh(folder: Path, resolution: int, segments: int, crops: int) -> None:
    """Save a tiny classifier of ten classes that nobody has trained: what it computes takes as long."""
    from models.info import ModelInfo, Pixels, Views
    from models.weights import save_model
    from pipeline.bench.harness import classifier

    network = classifier("tiny", img_size=resolution, num_frames=16, num_classes=10, keep_ratio=0.3)
    names = tuple(f"class {number}" for number in range(10))
    pixels, views = Pixels(resolution, 256), Views(segments, crops)
    info = ModelInfo(network.architecture, network.kwargs, "finetune", "bench", names, 4, views, pixels, {})
    save_model(network, folder, info.as_dict())
