"""MLflow's own page in a real browser, over runs that tracking wrote: are the runs comparable there?

Screenshots go to docs/images with EVEREST_SCREENSHOTS=1.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.tracking import stage_run
from pipeline.tracking.store import Store

CHROMIUM = Path("/usr/bin/chromium")
#: What headless Chromium is started with: nothing of it may ask the network.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Only this machine: the page must work without the internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
STRATEGIES = {"everest": (0.84, 0.057, 118.0), "tube": (0.79, 0.088, 71.0)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[str]]]:
    """Two evaluated strategies in a store of their own: (folder, experiment id, run ids)."""
    folder = tmp_path_factory.mktemp("page")
    before = Path.cwd()
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    try:
        for name, (top1, gmacs, rate) in STRATEGIES.items():
            # As in a comparison: each strategy is an experiment of its own, with its numbers on the parent run.
            (folder / "params.yaml").write_text(f"recipe: demo\nseed: 0\npretrain: {{strategy: {name}}}\n")
            work = Path(".work/evaluate") / name
            with stage_run("evaluate", "motion", {"strategy": name}, work, {"everest.strategy": name}) as run:
                for step in range(30):
                    run.metrics({"train/loss": 2.0 / (step + 1)}, step)
                values = {
                    "eval/top1": top1,
                    "efficiency/gmacs_per_clip": gmacs,
                    "efficiency/clips_per_second": rate,
                    "efficiency/peak_memory_gib": 0.9,
                }
                run.metrics(values)
                run.summary({f"motion/{key}": value for key, value in values.items()})
        store = Store()
        stages = [r for r in store.search() if r["tags"].get("everest.stage") == "evaluate"]
        yield folder, stages[0]["experiment"], [r["id"] for r in stages]
    finally:
        os.chdir(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def address(runs: tuple[Path, str, list[str]]) -> Iterator[str]:
    """A tracking server over that store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{runs[0]}/mlflow.db"]
    server = subprocess.Popen(
        command,
        env=environment,
        cwd=runs[0],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        else:
            pytest.fail("the MLflow server did not come up in 120 s")
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """A page of 1400 x 900, and the errors of its console."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=str(CHROMIUM),
            headless=True,
            args=list(FLAGS),
            viewport={"width": 1400, "height": 900},
        )
        errors: list[str] = []
        opened = browser.pages[0]
        opened.set_default_timeout(60_000)
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened, errors
        browser.close()


def own(errors: list[str]) -> list[str]:
    """Errors of the page's program: a resource cut off from the internet, or that MLflow has not, is none."""
    return [e for e in errors if "Failed to load resource" not in e and "net::" not in e]


def shoot(page: Any, root: Path, name: str) -> None:
    if os.environ.get("EVEREST_SCREENSHOTS"):
        (root / "docs" / "images").mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(root / "docs" / "images" / name))


def test_the_chart_view_shows_accuracy_and_cost(
    runs: tuple[Path, str, list[str]], address: str, page: tuple[Any, list[str]], root: Path
) -> None:
    opened, errors = page
    opened.goto(f"{address}/#/experiments/{runs[1]}/runs?compareRunsMode=CHART")
    for name in ("motion/eval", "motion/efficiency"):
        opened.get_by_text(name, exact=False).first.wait_for(state="attached")
    opened.get_by_text("motion/efficiency/gmacs_per_clip").first.wait_for(state="attached")
    opened.wait_for_timeout(3000)
    shoot(opened, root, "mlflow-chart.png")
    assert own(errors) == []


def test_the_compare_view_lists_the_efficiency_of_both_strategies(
    runs: tuple[Path, str, list[str]], address: str, page: tuple[Any, list[str]], root: Path
) -> None:
    opened, errors = page
    ids = "[" + ",".join(f'"{run}"' for run in runs[2]) + "]"
    opened.goto(f'{address}/#/compare-runs?runs={ids}&experiments=["{runs[1]}"]')
    for name in ("efficiency/gmacs_per_clip", "efficiency/clips_per_second", "eval/top1"):
        opened.get_by_text(name, exact=True).first.wait_for(state="attached")
    text = opened.inner_text("body")
    for _, gmacs, rate in STRATEGIES.values():
        assert f"{gmacs}" in text
        assert f"{rate:g}" in text
    shoot(opened, root, "mlflow-compare.png")
    assert own(errors) == []
