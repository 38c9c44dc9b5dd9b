"""What the benchmarks share: numbers that nothing can be measured with are refused before anything is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.bench import allreduce, evidence, ingest, loader, overhead, preprocess, step
from pipeline.bench.serving import run as serving
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (allreduce.command, "rounds", 0),
        (allreduce.command, "resolution", 16),
        (ingest.command, "videos", 0),
        (ingest.command, "rounds", 0),
        (loader.command, "rounds", 0),
        (loader.command, "samples", -1),
        (overhead.command, "threads", 0),
        (preprocess.command, "rounds", -1),
        (serving.command, "crops", 0),
        (serving.command, "resolution", 100),
        (step.command, "steps", 0),
        (step.command, "threads", -1),
    ],
)
def test_a_number_that_nothing_can_be_measured_with_is_refused_at_once(
    command: Callable[..., object], option: str, value: int
) -> None:
    with pytest.raises(InputError, match=rf"{option} = {value}: expected .* Cure: "):
        command(**{option: value})


@pytest.mark.parametrize(("option", "value"), [("step", 0), ("resolution", 100), ("resolution", 0)])
def test_frames_that_cannot_be_compared_are_refused_at_once(option: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"{option} = {value}: expected .* Cure: "):
        evidence.command([], Path("no model"), **{option: value})
