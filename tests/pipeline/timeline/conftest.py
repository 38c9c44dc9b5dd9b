"""A tiny classifier that tells three textures apart by its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_classifier

import models  # noqa: F401
from models.info import Views


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier.save(tmp_path_factory.mktemp("model"), 3, Views(1, 1))
