"""`everest compare --stop futile` on drawn videos, to its end: a hopeless strategy is stopped, the others lose nothing.

The hopeless one is written into the project as a file of its own: it looks at what stands still, and the class is the
colour of what moves.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import coloured_squares
import pytest
import yaml

from pipeline.data.video import write_video
from tests.e2e.conftest import SMALLEST, Project, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STILL = '''"""Keep what stands still."""

from __future__ import annotations

from torch import Tensor

from models.selection import Grid, TokenSplit, Budget, top_tokens
from models.strategies.base import Strategy
from models.strategies.everest import everest_budget, everest_split


def still_split(scores_BN: Tensor, noise_BN: Tensor, grid: Grid, budget: Budget) -> TokenSplit:
    """EVEREST, the wrong way round."""
    return everest_split(-scores_BN, noise_BN, grid, budget)


def still_tokens(scores_BN: Tensor, num_keep: int) -> Tensor:
    """The tokens that change least."""
    return top_tokens(-scores_BN, num_keep)


STRATEGY = Strategy(
    name="still",
    sentence="keeps what stands still",
    source="nobody",
    ratios=(0.3, 0.1),
    finetune_ratio=0.2,
    reads_scores=True,
    uses_keep_ratio=True,
    split=still_split,
    budget=everest_budget,
    keep=still_tokens,
)
'''
FINALISTS, SLICES = ("everest", "everest-keep-0.4"), 3
#: [s] that a comparison may take on a busy machine.
LONG = 2400
#: How many videos each split has.
VIDEOS = {"train": 64, "val": 64, "test": 24}


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one set of videos, their cache and their corpus."""
    folder = tmp_path_factory.mktemp("verdict")
    rows = ["path,label,split"]
    for split, count in VIDEOS.items():
        for number in range(count):
            name = f"{split}{number:03d}"
            pictures = coloured_squares.frames(len(rows), 16, 64, 24)
            write_video(folder / "own" / f"{name}.mp4", pictures, fps=12)
            rows.append(f"{name}.mp4,{list(coloured_squares.COLOURS)[(len(rows)) % 4]},{split}")
    (folder / "own" / "videos.csv").write_text("\n".join(rows) + "\n")
    project = make_project(root, folder / "project", SMALLEST)
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    source = {"kind": "folder", "path": str(folder / "own"), "annotations": "videos.csv"}
    data = {"dataset": "folder", "split": 1, "classes": 4, "frame_step": 1, "source": source}
    params["benchmarks"] = {"squares": {"data": data, "finetune": {}, "evaluate": {}}}
    params["pretrain"] |= {"corpus": ["squares"], "size": "tiny", "epochs": 6}
    params["compare"] |= {
        "strategies": [*FINALISTS, "still"], "benchmarks": ["squares"], "seeds": [0], "slices": SLICES,
    }  # fmt: skip
    params["compute"] |= {"ranks": 1, "device": "cpu"}
    path.write_text(yaml.safe_dump(params))
    (project.root / "models" / "strategies" / "still.py").write_text(STILL)
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run([*git, "add", "--all"], cwd=project.root, check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "squares"], cwd=project.root, check=True)
    project.run("dvc", "repro", "corpus@squares", timeout=LONG)
    return project


def results(cells: Path, arm: str) -> dict[str, str]:
    """Digest of everything that a training leaves as its result: weights, predictions, scores."""
    (folder,) = cells.glob(f"{arm}-seed0-*")
    files = [
        folder / "outputs" / stage / name
        for stage, name in (
            ("pretrain", "model.safetensors"),
            ("finetune/squares", "model.safetensors"),
            ("evaluate/squares", "predictions.parquet"),
        )
    ]
    digests = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    history = (folder / "outputs" / "pretrain" / "history.csv").read_text().splitlines()
    return digests | {"losses": ",".join(row.split(",")[2] for row in history)}


def test_a_hopeless_strategy_is_stopped_and_finalists_end_as_without_it(project: Project) -> None:
    cells = project.root / ".work" / "compare"
    raced = json.loads(project.run("everest", "compare", "--stop", "futile", "--json", timeout=LONG).stdout)
    assert [row["strategy"] for row in raced["results"]] == list(FINALISTS)
    stopped, worth = raced["sentences"][-2:]
    assert stopped.startswith("still was stopped after 67 % of its pre-training: its probe is ")
    assert "points behind everest" in stopped
    assert "at 95 % confidence over all looks. Saved: " in stopped
    assert "T multiply-adds" in stopped
    assert " h, and its fine-tunings." in stopped
    assert "not predictive on drawn videos" in worth
    summary = json.loads((project.root / "outputs" / "compare" / "summary.json").read_text())
    (saved,) = summary["verdict"]["saved"]
    # A third of its epochs of 64 clips, forward passes.
    plan = json.loads(project.run("everest", "compare", "--dry-run", "--json").stdout)["trials"]
    planned = next(row for row in plan if row["strategy"] == "still")
    all_epochs = planned["G multiply-adds/clip, all epochs"] * VIDEOS["train"] / 1000
    assert saved["tmacs"] == pytest.approx(all_epochs / 3, rel=0.01)
    assert 0 < saved["hours"] < 0.1
    page = (project.root / "outputs" / "compare" / "report.html").read_text()
    assert "67 % of its pre-training" in page
    assert not list(cells.glob("still-seed0-*/outputs/pretrain/model.safetensors"))
    kept = {arm: results(cells, arm) for arm in FINALISTS}

    again = project.run("everest", "compare", "--stop", "futile", "--json", timeout=LONG)
    assert json.loads(again.stdout) == raced, "the same command again decides the same, and trains nothing"
    assert "pretrain" not in again.stderr

    elsewhere = project.root / ".work" / "plain"
    project.environment["EVEREST_CELLS"] = str(elsewhere)
    plain = json.loads(project.run("everest", "compare", "--json", timeout=LONG).stdout)
    assert {row["strategy"] for row in plain["results"]} == {*FINALISTS, "still"}
    for arm in FINALISTS:
        assert results(elsewhere, arm) == kept[arm]
