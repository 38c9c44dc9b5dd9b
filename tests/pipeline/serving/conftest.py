"""A tiny classifier with a temperature, registered, and a folder of videos to serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sample_videos
import tiny_classifier

import models  # noqa: F401
from models.info import Views
from pipeline.model_folder import sha256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier.save(tmp_path_factory.mktemp("model"), 3, Views(1, 1), temperature=2.5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that videos are served from: three of them, and a link that leads out."""
    folder = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(("a.mp4", "b.mkv", "in/c.mp4")):
        sample_videos.write(folder / name, frames=40, seed=number)
    outside = sample_videos.write(tmp_path_factory.mktemp("private") / "secret.mp4", frames=40)
    (folder / "link.mp4").symlink_to(outside)
    return folder


@pytest.fixture(scope="module")
def registered(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`models:/three-ways@best` in a store of its own, which the environment names."""
    from pipeline.tracking.store import Store

    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        store = Store()
        run = store.create_run("serving", "key", "evaluate", 0, {})
        store.models.register(run, "k", model, "three-ways", {"score": "0.5", "sha256": sha256(model)}, ["best"])
        yield "models:/three-ways@best"
