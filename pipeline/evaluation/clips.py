"""The clips of the test videos that are worth a look (:mod:`pipeline.evaluation.examples`), drawn for the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline import layout
from pipeline.evaluation.benchmark import TestSet, reader, tested_model
from pipeline.evaluation.examples import Example, confident_errors, doubtful_hits, least_seen, surest_wrong
from pipeline.evaluation.inference import Answer
from pipeline.params import Params
from pipeline.system.files import write_text
from pipeline.system.text import storable

#: A kind of examples, as files are named by it, and what chooses them.
Kinds = tuple[tuple[str, Callable[..., list[Example]]], ...]
#: Which file shows which video.
INDEX = "clips.json"


def draw_clips(params: Params, benchmark: str, tests: TestSet, answers: list[Answer], folder: Path) -> None:
    """Write an animated WebP for each of the surest errors and the most doubtful hits, and which is whose."""
    from pipeline.pictures.animated import draw_animated
    from pipeline.pictures.tokens import kept_tokens

    how = params.evaluate_of(benchmark)
    numbers, probability_VC, truth = tests.read(answers)
    ids = [tests.ids[number] for number in numbers]
    number_of = dict(zip(ids, numbers, strict=True))
    model = tested_model(layout.output_dir("finetune", benchmark), how.strategy).eval()
    read = reader(params, benchmark, tests)
    middle = how.segments // 2 * how.crops + how.crops // 2
    files: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    kinds: Kinds = (("error", confident_errors), ("hit", doubtful_hits))
    if tests.truth_VC is not None:
        kinds = (("error", surest_wrong), ("missed", least_seen))
    for kind, choose in kinds:
        for place, one in enumerate(choose(ids, probability_VC, truth), start=1):
            if one.video_id in files:
                continue  # it is worth a look for both reasons
            view_THWC = read(number_of[one.video_id])[middle]
            file = f"{kind}-{place:02d}.webp"
            draw_animated(view_THWC, kept_tokens(model, view_THWC, params.clip.resolution), folder / file)
            files[one.video_id] = file
    write_text(folder / INDEX, json.dumps(storable(files), indent=1) + "\n")


def clip_files(folder: Path) -> dict[str, Path]:
    """Video id -> its file, as :func:`draw_clips` wrote them; {} where there are none."""
    try:
        files = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {video: folder / file for video, file in files.items()}
