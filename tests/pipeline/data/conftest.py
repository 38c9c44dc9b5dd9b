"""Makes `sample_videos` and `fault_server` importable from the tests in this folder and below."""

from __future__ import annotations

import pytest

from pipeline.params import IngestParams


@pytest.fixture
def limits() -> IngestParams:
    """The demo's ingest parameters."""
    return IngestParams(
        deadline_seconds=60.0,
        memory_gib=2.0,
        failure_budget=0.02,
        min_frames=16,
        max_repeated_run=64,
        workers=2,
    )
