"""A map of two cells at the smallest size: stopped between them it goes on, and ends in a page with its data."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCENE = "benchmarks.motion.data.source"
PLAN = {
    "recipe": "scenes",
    "benchmark": "motion",
    "overrides": {
        **{f"{SCENE}.{split}": 16 for split in ("train", "val", "test")},
        "pretrain.corpus": ["motion"],
        "pretrain.size": "tiny",
        "pretrain.epochs": 2,
        "pretrain.batch": 8,
        "benchmarks.motion.finetune.label_fraction": 1.0,
        "finetune.epochs": 1,
        "finetune.warmup_epochs": 1.0,
        "finetune.batch": 8,
        "finetune.validate_every_epochs": 1,
        "evaluate.segments": 1,
        "evaluate.bootstrap": 100,
        "ingest.workers": 1,
        "preprocess.workers": 1,
    },
    "axes": {"mover": {"key": f"{SCENE}.scene.mover_share", "values": [0.6], "centre": 0.05}},
    "strategies": ["everest", "tube"],
    "seeds": [0],
    "equal": ["multiply-adds", "epochs"],
}


def test_a_stopped_map_goes_on_and_its_cells_differ_in_redundancy(root: Path, tmp_path: Path) -> None:
    project = make_project(root, tmp_path / "project", {})
    (project.root / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    command = ["everest", "compare", "--plan", "plan.yaml"]
    results = project.root / ".work" / "map"

    planned = project.run(*command, "--dry-run", "--json")
    assert [row["trainings"] for row in json.loads(planned.stdout)["cells"]] == [3, 3]
    assert not results.exists()

    first = subprocess.Popen(command, cwd=project.root, env=project.environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while not list(results.glob("*-result.json")):
        assert first.poll() is None, first.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "the same command continues" in said

    done = project.run(*command)
    assert "[1/2] mover 0.05: done before" in done.stderr
    summary = json.loads((project.root / "outputs/map/summary.json").read_text())
    still, moving = summary["cells"]
    assert (still["place"], moving["place"]) == ({"mover": 0.05}, {"mover": 0.6})
    assert still["tokens_needed"] < moving["tokens_needed"], "a small mover leaves more to drop"
    for cell in summary["cells"]:
        assert [(gain["equal"], gain["against"]) for gain in cell["gains"]] == [
            ("multiply-adds", "tube"),
            ("epochs", "tube"),
        ]
        for gain in cell["gains"]:
            assert gain["low"] <= gain["difference"] <= gain["high"]
            assert gain["first"] - gain["other"] == pytest.approx(gain["difference"], abs=0.01)
    assert (project.root / "outputs/map/multiply-adds-tube-cells.svg").exists()
    assert not [path for path in results.iterdir() if path.is_dir()], "finished cells keep no frames"

    began = time.monotonic()
    assert "[2/2] mover 0.6: done before" in project.run(*command).stderr
    assert time.monotonic() - began < 60
