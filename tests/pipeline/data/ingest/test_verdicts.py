from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.data.ingest.verdicts import REASONS, Measurement, Rule, verdict

GOOD = Measurement(frames_declared=100, frames_decoded=100, width=64, height=64, fps=25.0, repeated_run=1)
RULE = Rule(min_frames=16, max_repeated_run=64)


def test_a_good_video_has_no_reason() -> None:
    assert verdict(GOOD, RULE) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frames_decoded": 0}, "no_frames"),
        ({"width": 1, "height": 1}, "too_small"),
        ({"height": 15}, "too_small"),
        ({"frames_decoded": 45, "frames_declared": 120}, "declared_more_than_decoded"),
        ({"frames_decoded": 89}, "declared_more_than_decoded"),
        ({"frames_decoded": 95}, ""),  # a few missing frames: the true length is used
        ({"repeated_run": 65}, "repeated_frames"),
        ({"frames_decoded": 15, "frames_declared": 15}, "too_short"),
        ({"fps": 0.0}, "no_duration"),
        ({"fps": float("inf")}, "no_duration"),
        ({"fps": float("nan")}, "no_duration"),
    ],
)
def test_each_fault_has_its_reason(change: dict[str, float], reason: str) -> None:
    assert verdict(replace(GOOD, **change), RULE) == reason
    assert not reason or reason in REASONS


def test_there_are_more_than_fifteen_reasons() -> None:
    assert len(REASONS) >= 15
