"""The GPU benchmark, rehearsed on a CPU: its parts, its deadlines, its page, and what it may not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.bench.gpu import checks, floor, planner, right, run, timing
from pipeline.bench.gpu.rows import Row, append, page, read
from pipeline.bench.gpu.setting import Setting, setting_of
from pipeline.efficiency.meters import DEVICES
from pipeline.errors import InputError
from pipeline.planning import calibration
from pipeline.planning.memory import footprint
from pipeline.planning.plan import plan
from pipeline.training.optim import move_together

#: What a bare machine with a GPU does not have.
ABSENT = ("decord", "av", "prefect", "mlflow", "dvc", "pyarrow", "simplejpeg", "boto3")
BLOCK = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"{{name}} is not on the machine", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def bare(tmp_path: Path, root: Path) -> dict[str, str]:
    """An environment whose processes, and theirs, cannot import what a bare machine lacks."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"}


def _names(setting: object) -> list[str]:
    return [check.name for check in right.checks(setting)]  # type: ignore[arg-type]


#: Checks of the fast suite; the others compile, follow memory or build process groups.
QUICK = ("float64", "uint8", "crops", "NaN", "checkpointing", "budget", "fp16", "step: pretrain")


def test_a_part_runs_without_the_tools_around_training(bare: dict[str, str], tmp_path: Path, root: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in _names(setting_of("cpu", out, 0.0)):
        if not any(word in name for word in QUICK):
            append(out / "results.jsonl", Row("right", name, "left out"))  # a row that is there is not run again
    command = [sys.executable, "-m", "pipeline.bench.gpu.part", "right", str(out), "cpu", "300"]
    done = subprocess.run(command, env=bare, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row.name: row for row in read(out / "results.jsonl") if row.status != "left out"}
    assert len(rows) == 16
    assert not {name: row.error for name, row in rows.items() if row.status != "ok"}


@pytest.mark.slow
def test_the_whole_is_rehearsed_on_a_bare_machine(bare: dict[str, str], tmp_path: Path, root: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline.bench.gpu", "--device", "cpu", "--minutes", "9", "--out", str(out)]
    done = subprocess.run(command, env=bare, cwd=root, capture_output=True, text=True, check=False)
    rows = read(out / "results.jsonl")
    assert done.returncode == 0, [(row.name, row.error) for row in rows if row.status != "ok"] or done.stderr
    assert {row.part for row in rows} == set(run.PARTS)
    assert {row.status for row in rows} == {"ok"}
    results = json.loads((out / "results.json").read_text())
    assert len(results["rows"]) == len(rows) >= 40
    assert all(title in (out / "gpu.md").read_text() for title in ("### Right", "### Fast", "### Fed", "### Learns"))
    assert calibration.read(out / "calibration.json")["shares"]
    assert not (out / "work").exists()


def _program(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    head = "import sys, time\nfrom pathlib import Path\nfrom pipeline.bench.gpu.rows import Row, append, read\n"
    path.write_text(f"{head}results = Path(sys.argv[2]) / 'results.jsonl'\nrows = read(results)\n{text}")
    return sys.executable, str(path)


def test_a_part_is_killed_at_its_deadline_and_loses_the_running_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "append(results, Row('right', 'one', 'ok', {'a': 1}))\nappend(results, Row('right', 'two', 'begun'))\n"
    monkeypatch.setattr(run, "PROGRAM", _program(tmp_path, text + "time.sleep(600)"))
    monkeypatch.setattr(run, "GRACE", 0.1)
    began = time.monotonic()
    result = run.command(0.1, "cpu", ["right"], tmp_path / "out")
    assert time.monotonic() - began < 60
    assert result["failed"] == ["right: two"]
    assert "**begun** two: cut off" in (tmp_path / "out" / "gpu.md").read_text()


def test_a_part_whose_device_is_lost_goes_on_in_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "append(results, Row('right', f'row {len(rows)}', 'ok'))\nsys.exit(3 if len(rows) < 2 else 0)"
    monkeypatch.setattr(run, "PROGRAM", _program(tmp_path, text))
    run._part("right", tmp_path, "cpu", 120)
    assert [row.name for row in read(tmp_path / "results.jsonl")] == ["row 0", "row 1", "row 2"]


def test_a_part_that_does_not_begin_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PROGRAM", _program(tmp_path, "raise ImportError('no driver')"))
    run._part("right", tmp_path, "cpu", 120)
    (row,) = read(tmp_path / "results.jsonl")
    assert row.status == "failed"
    assert "no driver" in row.error


def test_a_failed_check_costs_its_own_row(tmp_path: Path) -> None:
    def wrong(_: Setting) -> dict[str, object]:
        return checks.expect(False, "errors below 1", {"error": 2})

    def broken(_: Setting) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    all_checks = [checks.Check("wrong", 1, wrong), checks.Check("broken", 1, broken),
                  checks.Check("long", 1e9, lambda _: {}), checks.Check("good", 1, lambda _: {"a": 1})]  # fmt: skip
    setting = setting_of("cpu", tmp_path, time.monotonic() + 1000)
    assert checks.run_all("right", all_checks, setting)
    rows = {row.name: row for row in read(setting.results)}
    assert [row.status for row in rows.values()] == ["failed", "failed", "left out", "ok"]
    assert (rows["wrong"].error, rows["wrong"].values) == ("expected errors below 1", {"error": 2})
    assert rows["broken"].error == "RuntimeError: no such kernel"
    assert "needed" in rows["long"].error


def test_an_error_that_takes_the_device_along_ends_the_process(tmp_path: Path) -> None:
    def lost(_: Setting) -> dict[str, object]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    setting = setting_of("cpu", tmp_path, time.monotonic() + 99)
    all_checks = [checks.Check("lost", 1, lost), checks.Check("after", 1, lambda _: {})]
    assert not checks.run_all("right", all_checks, setting)
    assert [row.name for row in read(setting.results)] == ["lost"]


def test_the_largest_batch_is_found_by_halving() -> None:
    tried = []

    def measured(batch: int) -> str:
        tried.append(batch)
        if batch > 24:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"{batch} clips"

    assert timing.largest_batch(measured, 96) == "24 clips"
    assert tried == [96, 48, 24]
    with pytest.raises(torch.OutOfMemoryError):
        timing.largest_batch(lambda batch: measured(100), 2)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    append(tmp_path / "r", Row("fast", "one", "ok"))
    with (tmp_path / "r").open("a") as file:
        file.write('{"part": "fast", "na')
    assert [row.name for row in read(tmp_path / "r")] == ["one"]


def test_bad_wishes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--only \['left'\].*Cure"):
        run.command(1, "cpu", ["left"], tmp_path)
    with pytest.raises(InputError, match=r"--minutes 0.*Cure"):
        run.command(0, "cpu", None, tmp_path)
    with pytest.raises(InputError, match=r"--device tpu.*Cure"):
        run.command(1, "tpu", None, tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"torch sees no GPU.*Cure"):
            run.machine("cuda")
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(InputError, match=r"results of another run.*Cure"):
        run.command(1, "cpu", None, tmp_path)


def test_the_page_has_a_table_for_rows_alike_and_says_what_failed() -> None:
    about = {"device": "NVIDIA H100", "date": "2026-01-01", "driver": "580", "command": "everest bench gpu"}
    rows = [
        Row("fast", "one", "ok", {"step_ms": 1.23456, "mfu": None}, seconds=2.5),
        Row("fast", "two", "ok", {"step_ms": 20000.0, "mfu": 0.5}),
        Row("right", "a|b", "failed", error="expected <1"),
    ]
    text = page(about, rows)
    assert text.count("| step ms |") == 1
    assert "1.235" in text
    assert "| 20000 |" in text
    assert "- **failed** a\\|b: expected" in text
    assert "driver 580" in text


def test_the_floor_counts_the_products_of_a_step() -> None:
    from models.cost import multiply_adds

    flops = sum(part.flops for part in floor.parts("base", 256))
    cost = multiply_adds("base", "pretrain")
    model = 256 * (6 * (cost.multiply_adds - cost.embed) + 2 * cost.embed)
    bridge = 256 * 6 * cost.encoder_tokens * 768 * 384
    assert flops == pytest.approx(model - bridge, rel=1e-6)
    assert all(part.seconds(True) <= part.seconds(False) for part in floor.parts())


def test_averages_of_a_gpu_move_together_as_each_would() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(size, generator=generator) for size in (3, 5)]
    targets = [torch.randn(size, generator=generator) for size in (3, 5)]
    for weight in (torch.tensor(0.001), torch.tensor(0.0)):
        expected = [value.lerp(target, weight) for value, target in zip(values, targets, strict=True)]
        move_together(values, targets, weight)
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-7)


def test_memory_planned_for_a_gpu_holds_no_scores_of_attention() -> None:
    name, clip = "everest_tiny_patch16_224", (8, 112)
    arguments = {"img_size": 112, "num_frames": 8, "num_classes": 8, "strategy": "none"}
    cpu, gpu = (footprint(name, arguments, clip, "bf16", gpu=on) for on in (False, True))
    scores = 4 * 3 * 196**2 * 2  # blocks, heads, tokens squared, bf16
    assert cpu.per_clip - gpu.per_clip > 0.9 * scores


def _step(strategy: str, share: float) -> planner.Step:
    return {
        "stage": "finetune", "size": "small", "strategy": strategy, "compiled": False, "clips": 64, "tokens": 1,
        "step_ms": 1.0, "peak_gib": 9.0, "gmacs_per_clip": 1.0, "mfu": None, "share_of_measured_peak": share,
    }  # fmt: skip


def test_a_step_of_all_tokens_is_planned_as_one_and_is_no_share_of_the_recipes(tmp_path: Path) -> None:
    setting = replace(setting_of("cpu", tmp_path, 0.0), frames=16, resolution=112, height=128)
    recipes, every = _step("everest", 0.2), _step("none", 0.4)
    recipes_gib, every_gib = (planner.compared(setting, step)["predicted_gib"] for step in (recipes, every))
    assert every_gib > 1.3 * recipes_gib  # type: ignore[operator]
    for steps, shares in (([recipes, every], {"finetune small eager": 0.2}), ([every], {})):
        planner.calibrate(setting, steps)
        assert calibration.read(tmp_path / "calibration.json")["shares"] == shares


def _calibration(tmp_path: Path, **changes: object) -> Path:
    document = {"device": "NVIDIA H100 80GB HBM3", "date": "2026-11-30", "torch": "2.11.0",
                "shares": {"pretrain base eager": 0.41}, **changes}  # fmt: skip
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(document))
    return path


def test_a_plan_takes_a_measured_share_and_says_where_it_is_from(tmp_path: Path) -> None:
    path = _calibration(tmp_path)
    pretrain, finetune = plan("k400", "h100", 8, memory=False, calibration=path)["stages"]
    assert (pretrain["mfu"], finetune["mfu"]) == (0.41, 0.3)
    assert pretrain["mfu_from"] == "measured on NVIDIA H100 80GB HBM3, 2026-11-30, torch 2.11.0"
    assert finetune["mfu_from"] == "assumed"
    other = plan("k400", "a100-80", 8, memory=False, calibration=path)
    assert {row["mfu_from"] for row in other["stages"]} == {"assumed"}
    given = plan("k400", "h100", 8, mfu=0.2, memory=False, calibration=path)
    assert {row["mfu_from"] for row in given["stages"]} == {"given"}
    assert any(
        "pretrain 0.41, measured on" in line for line in plan("k400", memory=False, calibration=path)["assumptions"]
    )


@pytest.mark.parametrize("name", ["h100", "h200"])
def test_each_kind_of_gpu_that_was_measured_has_its_own_shares(name: str) -> None:
    share = calibration.measured_share(DEVICES[name], "pretrain", "base", True)
    assert share is not None
    assert 0.2 < share.mfu < 0.6
    assert f"measured on NVIDIA {name.upper()}" in share.origin


def test_without_a_calibration_a_plan_assumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibration, "TRACKED", tmp_path)
    assert calibration.measured_share(DEVICES["h100"], "pretrain", "base", False) is None


@pytest.mark.parametrize("changes", [{"shares": {"pretrain base eager": 1.4}}, {"shares": 3}, {"shares": {"a": "b"}}])
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"calibration.json.*Cure"):
        calibration.read(_calibration(tmp_path, **changes))
    with pytest.raises(InputError, match=r"none.json.*Cure"):
        calibration.read(tmp_path / "none.json")
