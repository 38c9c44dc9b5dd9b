from __future__ import annotations

from typing import Any

import pytest

from pipeline.data.ingest.verdicts import REASONS, judge

GOOD: dict[str, Any] = {
    "declared": 100,
    "decoded": 100,
    "width": 64,
    "height": 64,
    "fps": 25.0,
    "repeated_run": 1,
    "min_frames": 16,
    "max_repeated_run": 64,
}


def test_a_good_video_has_no_reason() -> None:
    assert judge(**GOOD) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decoded": 0}, "no_frames"),
        ({"width": 1, "height": 1}, "too_small"),
        ({"height": 15}, "too_small"),
        ({"decoded": 45, "declared": 120}, "declared_more_than_decoded"),
        ({"decoded": 89}, "declared_more_than_decoded"),
        ({"decoded": 95}, ""),  # a few missing frames: the true length is used
        ({"repeated_run": 65}, "repeated_frames"),
        ({"decoded": 15, "declared": 15}, "too_short"),
        ({"fps": 0.0}, "no_duration"),
        ({"fps": float("inf")}, "no_duration"),
        ({"fps": float("nan")}, "no_duration"),
    ],
)
def test_each_fault_has_its_reason(change: dict[str, Any], reason: str) -> None:
    assert judge(**(GOOD | change)) == reason
    assert not reason or reason in REASONS


def test_there_are_more_than_fifteen_reasons() -> None:
    assert len(REASONS) >= 15
