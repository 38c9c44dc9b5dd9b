"""Probabilities of many videos: views read ahead in threads, batched on the device, shared out over ranks.

What is batched together does not depend on the number of ranks, so neither does a single bit of the result.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipeline.data.arrays import U8
from pipeline.errors import DamagedError, EverestError, UnavailableError
from pipeline.evaluation.calibration import tempered
from pipeline.evaluation.metrics import average_views, decisions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.distributed.groups import Ranks

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """One video's probabilities [C], or why there are none."""

    probability: np.ndarray | None
    reason: str = ""


def infer(
    model: nn.Module,
    read: Callable[[int], U8],
    count: int,
    *,
    views: int,
    resolution: int,
    batch: int,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 2,
    ranks: Ranks | None = None,
    temperature: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    several: bool = False,
) -> dict[int, Answer]:
    """Run a classifier over videos 0..count-1.

    Args:
        read: number -> views, uint8 [X, T, s, s, 3]; an EverestError that it raises makes the video a failed one, but
            for those that no single video is to blame for. Called once for each video of this rank.
        views: X, segments times crops.
        batch: clips that go through the model together; whole videos, so more where a video has more views.
        ranks: this process takes every `ranks.world`-th batch; None takes all.
        temperature: of a model that is used, fitted on validation videos; None leaves probabilities as they are.
        progress: told (videos done, videos of this rank).
        several: a video may have several classes: a sigmoid of each logit in place of their softmax.

    Returns:
        The answers of this rank's videos.
    """
    import torch

    from pipeline.data.pixels.normalise import model_pixels

    model = model.to(device).eval()
    answers: dict[int, Answer] = {}
    groups = read_groups(read, count, max(1, batch // views), ranks, workers)
    mine = 0
    with torch.inference_mode(), autocast(device, precision):
        for numbers, results in groups:
            mine += len(numbers)
            videos = {n: v for n, v in zip(numbers, results, strict=True) if not isinstance(v, str)}
            answers |= {n: Answer(None, v) for n, v in zip(numbers, results, strict=True) if isinstance(v, str)}
            if videos:
                clips = torch.cat([model_pixels(torch.from_numpy(v), resolution, device) for v in videos.values()])
                logits = torch.cat([model(part) for part in clips.split(max(1, batch))]).float().cpu().numpy()
                for number, logits_XC in zip(videos, np.split(logits, len(videos)), strict=True):
                    if np.isfinite(logits_XC).all():
                        answers[number] = Answer(probabilities(logits_XC, temperature, several))
                    else:
                        answers[number] = Answer(None, "the model gives it logits that are no numbers")
            if progress is not None:
                progress(mine, count)
    return answers


def probabilities(logits_XC: np.ndarray, temperature: float | None = None, several: bool = False) -> np.ndarray:
    """Probabilities [C] of a video: the mean of its views' softmax, at a temperature where one is given.

    Args:
        several: of sigmoids in place of the softmax; each class is then a decision that the temperature scales.
    """
    mean_C = average_views(logits_XC, several)
    if temperature is None:
        return mean_C
    if several:
        return np.asarray(tempered(decisions(mean_C), temperature)[:, 1], dtype=mean_C.dtype)
    return np.asarray(tempered(mean_C[None], temperature)[0], dtype=mean_C.dtype)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which products are made in a precision of params.yaml: fp32, bf16 or fp16."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def read_groups(
    read: Callable[[int], T], count: int, size: int, ranks: Ranks | None, workers: int
) -> Iterator[tuple[list[int], list[T | str]]]:
    """This rank's groups of `size` videos with what was read of each (or a reason), up to two groups ahead."""
    groups = [list(range(start, min(count, start + size))) for start in range(0, count, size)]
    if ranks is not None:
        groups = groups[ranks.rank :: ranks.world]
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        waiting: deque[tuple[list[int], list[Future[T | str]]]] = deque()
        for numbers in groups:
            waiting.append((numbers, [pool.submit(_attempt, read, number) for number in numbers]))
            if len(waiting) > 2:
                done, futures = waiting.popleft()
                yield done, [future.result() for future in futures]
        while waiting:
            done, futures = waiting.popleft()
            yield done, [future.result() for future in futures]
    finally:
        # After Ctrl-C nobody waits for what is being read.
        pool.shutdown(wait=False, cancel_futures=True)


def _attempt(read: Callable[[int], T], number: int) -> T | str:
    try:
        return read(number)
    except (DamagedError, UnavailableError):
        raise  # not one bad video: what is on this disk cannot be trusted, or nothing can be decoded
    except EverestError as error:
        return str(error)


def gather(answers: dict[int, Answer], count: int, classes: int, ranks: Ranks | None) -> list[Answer]:
    """All ranks' answers on every rank, in order.

    Each rank fills its own rows of one tensor of zeros and the tensors are added: exact, without padding to
    count or names to collide. That every video was answered once is checked.

    Raises:
        EverestError: a video was answered by no rank or by several.
    """
    if ranks is None or ranks.world == 1:
        return [answers[number] for number in range(count)]
    import torch

    table = torch.zeros(count, classes + 2)
    for number, answer in answers.items():
        table[number, classes] = 1
        if answer.probability is not None:
            table[number, :classes] = torch.from_numpy(answer.probability)
            table[number, classes + 1] = 1
    table = ranks.sum_(table.to(ranks.device)).cpu()
    wrong = (table[:, classes] != 1).nonzero().flatten().tolist()
    if wrong:
        raise EverestError(
            f"{len(wrong)} of {count} videos were not evaluated exactly once (numbers {wrong[:5]}). "
            "Cure: run the stage again; all ranks must see the same cache."
        )
    reasons: dict[int, str] = {}
    for part in ranks.gather({n: a.reason for n, a in answers.items() if a.probability is None}):
        reasons |= part
    return [
        Answer(table[number, :classes].numpy()) if table[number, classes + 1] else Answer(None, reasons[number])
        for number in range(count)
    ]


def names_once(names: Sequence[str]) -> None:
    """Refuse a list of video ids in which one comes twice.

    Raises:
        EverestError: naming the ids.
    """
    seen: set[str] = set()
    twice = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if twice:
        raise EverestError(
            f"{len(twice)} video ids come more than once in the test split, for example {twice[0]!r}. "
            "Cure: ids must be unique; run `everest download` again."
        )
