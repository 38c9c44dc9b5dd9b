"""Three official splits with real files: each is fetched, decoded, pre-trained, fine-tuned and tested on its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from fault_server import serve

from pipeline.data.sources.draw import MOTIONS, draw_motion
from pipeline.data.video import write_video
from tests.e2e.conftest import SMALLEST, Project, make_project
from tests.ucf101_miniature import write_ucf101

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

#: UCF101's classes are as many as its lists name; eight of them have videos here, in four groups.
CLASSES = [*MOTIONS, *(f"Class{number:03d}" for number in range(101 - len(MOTIONS)))]
GROUPS = 4


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a small UCF101: split n tests on group n and trains on the others."""
    folder = tmp_path_factory.mktemp("mirror")
    videos: dict[str, bytes] = {}
    for label, name in enumerate(MOTIONS):
        for group in range(1, GROUPS + 1):
            path = folder / "one.avi"
            write_video(path, draw_motion(np.random.default_rng(len(videos)), label, 24, 64), fps=24)
            videos[f"{name}/v_{name}_g{group:02d}_c01.avi"] = path.read_bytes()
            path.unlink()
    write_ucf101(folder, CLASSES, videos)
    with serve(folder) as site:
        site.write_sums()
        yield site.url


@pytest.fixture(scope="module")
def project(root: Path, mirror: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(root, tmp_path_factory.mktemp("repeat") / "project", SMALLEST)
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["benchmarks"] = {
        "ucf101": {
            "data": {
                "dataset": "ucf101",
                "split": 1,
                "classes": 101,
                "frame_step": 1,
                "source": {"kind": "official", "mirrors": [mirror]},
            },
            "finetune": {"validate_split": "test"},
            "evaluate": {},
        }
    }
    params["pretrain"]["corpus"] = params["compare"]["benchmarks"] = ["ucf101"]
    path.write_text(yaml.safe_dump(params))
    return project


def test_each_split_is_trained_without_its_test_videos_and_the_mean_is_reported(project: Project) -> None:
    from mlflow.tracking import MlflowClient

    record = json.loads(project.run("everest", "repeat", "--json").stdout)
    scores = [row["top1"] for row in record["scores"]]
    assert [row["split"] for row in record["scores"]] == [1, 2, 3]
    assert record["results"][0]["mean"] == pytest.approx(np.mean(scores))
    assert record["results"][0]["between_splits"] == pytest.approx(np.std(scores, ddof=1))
    for split in (1, 2, 3):
        (corpus,) = (project.root / ".work/repeat").glob(f"split{split}-[!s]*/data/corpus/ucf101.parquet")
        seen = pq.read_table(corpus).column("video_id").to_pylist()
        assert len(seen) == len(MOTIONS) * (GROUPS - 1)
        assert not [video for video in seen if f"_g{split:02d}_" in video]
    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    assert [model.name for model in client.search_registered_models()] == ["everest-demo-ucf101-repetition"]
    again = project.run("everest", "repeat", "--json")
    assert json.loads(again.stdout)["scores"] == record["scores"]
    assert "pretrain" not in again.stderr, "a finished stage is not run again"
