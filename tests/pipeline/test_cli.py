"""The command line: quick to start, clear about mistakes, with the exit codes that scripts rely on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from models.registry import SIZES as REGISTERED
from pipeline.cli import app
from pipeline.commands.common import SIZES
from pipeline.commands.results import show_results
from pipeline.system.terminal import show

HEAVY = {"torch", "timm", "mlflow", "dvc", "prefect", "pyarrow", "numpy", "av", "decord", "boto3", "matplotlib", "yaml"}


def everest(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, pipeline.cli; print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_explains_itself() -> None:
    runner = CliRunner()

    def visit(command: object, words: list[str]) -> int:
        answer = runner.invoke(app, [*words, "--help"])
        assert answer.exit_code == 0, words
        assert getattr(command, "help", None), f"{' '.join(words)} has no help"
        children = getattr(command, "commands", {})
        return 1 + sum(visit(child, [*words, name]) for name, child in children.items())

    assert visit(typer.main.get_command(app), []) > 30


def test_helps_name_every_size_of_the_models() -> None:
    assert re.findall(r"\w+", SIZES.replace(" or ", ", ")) == list(REGISTERED)


def test_a_missing_params_file_ends_with_2_and_a_cure(tmp_path: Path) -> None:
    done = everest("download", "motion", folder=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"error: params.yaml does not exist. Cure: .*\n", done.stderr)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "cache", "ls"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert re.match(r"error: .*no space left on the disk. What is finished is kept. Cure: .*again\.\n", done.stderr)


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pipeline import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.app.command('wait')(lambda: os.kill(os.getpid(), signal.SIGINT)); cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "wait"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "stopped; what is finished is kept, and the same command goes on from there."


def test_nested_results_are_tables_to_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    show({"caches": {"motion": {"files": 5, "damaged": [{"file": "x", "reason": "missing"}]}}, "reasons": {}}, "Found")
    text = " ".join(capsys.readouterr().out.split())
    assert "caches files damaged" in text
    assert "motion 5 file x, reason missing" in text
    assert "reasons none" in text
    assert "{" not in text


def test_an_unknown_benchmark_ends_with_2_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    done = everest("finetune", "moton", folder=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'motion'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_the_demo_refuses_another_recipe_by_name(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((root / "recipes" / "ucf101.yaml").read_text())
    done = everest("demo", folder=tmp_path)
    assert done.returncode == 2
    assert "'ucf101'" in done.stderr
    assert "everest recipe use demo" in done.stderr


def test_flops_prints_json_that_agrees_with_the_paper(tmp_path: Path) -> None:
    rows = json.loads(everest("flops", "--json", folder=tmp_path).stdout)
    result = {
        (r["size"], r["stage"], r["strategy"]): r["gmacs_per_clip"] for r in rows if r["keep_ratio"] in (0.3, 0.6)
    }
    assert result["base", "pretrain", "everest"] == pytest.approx(19.8, rel=0.01)
    assert result["base", "finetune", "everest"] == pytest.approx(98.0, rel=0.01)


def test_recipes_are_listed_and_a_wrong_name_is_refused(root: Path) -> None:
    assert {"demo", "ucf101", "k400"} <= {
        row["recipe"] for row in json.loads(everest("recipe", "list", "--json", folder=root).stdout)
    }
    done = everest("recipe", "show", "ucf102", folder=root)
    assert done.returncode == 2
    assert "ucf101" in done.stderr


def test_the_doctor_names_every_finding_with_a_status(root: Path) -> None:
    checks = {row["check"]: row for row in json.loads(everest("doctor", "--json", folder=root).stdout)}
    assert checks["decord decodes H.264"]["status"] == "ok"
    assert checks["params.yaml"]["status"] == "ok"
    for row in checks.values():
        assert row["status"] in ("ok", "warn", "fail")
        assert row["cure"] or row["status"] == "ok"


def test_the_end_of_a_run_says_how_its_models_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(("top1", "top1_ci_low", "top1_ci_high", "gmacs_per_clip", "clips_per_second"), 0.4)
    row |= {"benchmark": "mine", "strategy": "everest", "trivial": None, "peak_memory_gib": None, "wall_seconds": 3.0}
    show_results({"recipe": "mine", "results": [row]}, {"report": "ran"}, 3.0)  # type: ignore[arg-type, typeddict-item]
    printed = capsys.readouterr().out
    assert "everest predict FILES --model models:/everest-mine-mine@candidate" in printed
    # MLflow's own page has port 5000, which serving takes by itself.
    assert "serve -m models:/everest-mine-mine@candidate --env-manager local --port 5001" in printed
    assert "experiment/demo" not in printed
