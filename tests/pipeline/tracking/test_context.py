"""What a stage's process knows of whom it works for."""

import pytest

from pipeline.tracking.context import registered_name


def test_an_arm_of_a_comparison_never_becomes_the_candidate_of_the_chains_own_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EVEREST_COMPARE", raising=False)
    assert registered_name("demo", "motion") == "everest-demo-motion"
    monkeypatch.setenv("EVEREST_COMPARE", "tube-seed1")
    assert registered_name("demo", "motion") == "everest-demo-motion-comparison"
