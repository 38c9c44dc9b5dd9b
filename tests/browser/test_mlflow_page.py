"""MLflow's own page in a real browser, over the runs of the demo: can strategies be compared by cost and accuracy?

The runs are those of the demo at its smallest size. EVEREST_FINISHED_DEMO names a checkout where it was run already;
with EVEREST_SCREENSHOTS=1 the pictures of docs/images are taken anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port

from pipeline.tracking.store import Store
from pipeline.tracking.views import address
from tests.e2e.conftest import SMALLEST, make_project

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
#: Console lines that are no error of the page's program: resources cut off from the internet, and a notice of the
#: browser's that layout took two rounds.
NOISE = ("Failed to load resource", "net::", "ResizeObserver loop")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium"),
]


@dataclass(frozen=True)
class Tracked:
    """The demo's experiment: its id, its runs, and the summary of the comparison."""

    folder: Path
    experiment: str
    runs: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def parents(self) -> list[dict[str, Any]]:
        """The runs of whole experiments, one for each strategy."""
        return [run for run in self.runs if "pretrain/efficiency/gmacs_per_clip" in run["metrics"]]

    def stage(self, name: str) -> dict[str, Any]:
        return next(run for run in self.runs if run["tags"].get("dvc.stage") == name)


@pytest.fixture(scope="module")
def tracked(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    folder = os.environ.get("EVEREST_FINISHED_DEMO")
    if not folder:
        project = make_project(root, tmp_path_factory.mktemp("browser") / "project", SMALLEST)
        project.run("everest", "demo")
        folder = str(project.root)
    store = Store(f"sqlite:///{folder}/mlflow.db")
    experiment = store.experiment("everest-demo")
    summary = json.loads((Path(folder) / "outputs" / "compare" / "summary.json").read_text())
    return Tracked(Path(folder), experiment, store.search(experiment=experiment), summary)


@pytest.fixture(scope="module")
def server(tracked: Tracked) -> Iterator[str]:
    """A tracking server over that store."""
    port = free_port()
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tracked.folder}/mlflow.db"]
    running = subprocess.Popen(
        command,
        env=environment,
        cwd=tracked.folder,
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
        os.killpg(running.pid, 15)
        running.wait(30)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """A page of 1500 x 950, and the errors of its console."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=str(CHROMIUM),
            headless=True,
            args=list(FLAGS),
            viewport={"width": 1500, "height": 950},
        )
        errors: list[str] = []
        opened = browser.pages[0]
        opened.set_default_timeout(60_000)
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened, errors
        browser.close()


def own(errors: list[str]) -> list[str]:
    """Errors of the page's program."""
    return [error for error in errors if not any(noise in error for noise in NOISE)]


def shoot(page: Any, root: Path, name: str) -> None:
    if os.environ.get("EVEREST_SCREENSHOTS"):
        for label in ("Close Assistant", "Close"):
            for button in page.get_by_role("button", name=label).all():
                button.click(timeout=2000)
        page.wait_for_timeout(2000)
        page.screenshot(path=str(root / "docs" / "images" / name))


def test_the_prepared_view_shows_top1_against_cost_with_a_point_for_each_strategy(
    tracked: Tracked, server: str, page: tuple[Any, list[str]], root: Path
) -> None:
    opened, errors = page
    opened.goto(address(server, tracked.experiment))
    chart = opened.locator(".js-plotly-plot").filter(has_text="pretrain/efficiency/gmacs_per_clip").first
    chart.wait_for()
    opened.wait_for_function("document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length >= 2")
    assert "motion/eval/top1" in chart.inner_text()
    points = chart.locator(".scatterlayer .point").count()
    assert points == len(tracked.parents) >= 2
    for run in tracked.parents:
        opened.get_by_text(run["name"]).first.wait_for()
    shoot(opened, root, "mlflow-chart.png")
    assert own(errors) == []


def compare(opened: Any, server: str, tracked: Tracked, runs: list[dict[str, Any]]) -> None:
    """Open MLflow's comparison of some runs."""
    ids = "[" + ",".join(f'"{run["id"]}"' for run in runs) + "]"
    opened.goto(f'{server}/#/compare-runs?runs={ids}&experiments=["{tracked.experiment}"]')


def shown(value: float) -> str:
    """As the page rounds: to three digits, halves up."""
    return f"{Decimal(value).quantize(Decimal('0.001'), ROUND_HALF_UP):f}".rstrip("0").rstrip(".")


def test_the_compare_view_lists_the_accuracies_of_two_strategies(
    tracked: Tracked, server: str, page: tuple[Any, list[str]]
) -> None:
    opened, errors = page
    pair = tracked.parents[:2]
    compare(opened, server, tracked, pair)
    # The page draws only those rows of its long table that are in sight.
    for name in ("motion/eval/top1", "motion/efficiency/peak_memory_gib", "motion/efficiency/gmacs_per_clip"):
        opened.get_by_text(name, exact=True).first.wait_for(state="attached")
    text = opened.inner_text("body")
    for run in pair:
        assert run["name"] in text
        assert shown(run["metrics"]["motion/eval/top1"]) in text
    assert own(errors) == []


def test_the_compare_view_lists_the_efficiency_of_two_pretrainings(
    tracked: Tracked, server: str, page: tuple[Any, list[str]], root: Path
) -> None:
    opened, errors = page
    cost_of = "efficiency/gmacs_per_clip"
    trainings = [
        run for run in tracked.runs if run["tags"].get("dvc.stage") == "pretrain" and cost_of in run["metrics"]
    ]
    # The store may hold several seeds of each strategy, and trainings that were stopped.
    pair = list({run["metrics"][cost_of]: run for run in trainings}.values())[:2]
    compare(opened, server, tracked, pair)
    for name in ("efficiency/gmacs_per_clip", "efficiency/clips_per_second", "efficiency/peak_memory_gib"):
        opened.get_by_text(name, exact=True).first.wait_for(state="attached")
    text = opened.inner_text("body")
    costs = {f"{run['metrics']['efficiency/gmacs_per_clip']:.3f}" for run in pair}
    assert len(costs) == 2, "two strategies"
    for cost in costs:
        assert cost in text
    opened.get_by_text("efficiency/gmacs_per_clip", exact=True).first.scroll_into_view_if_needed()
    shoot(opened, root, "mlflow-compare.png")
    assert own(errors) == []


def test_the_pictures_of_a_training_are_drawn(tracked: Tracked, server: str, page: tuple[Any, list[str]]) -> None:
    opened, errors = page
    run = tracked.stage("pretrain")
    opened.goto(f"{server}/#/experiments/{tracked.experiment}/runs/{run['id']}/artifacts/pictures/clip-0.png")
    opened.wait_for_function(
        "[...document.querySelectorAll('img')].some(i => i.complete && i.naturalWidth > 600 && i.naturalHeight > 300)"
    )
    assert own(errors) == []


def test_the_description_of_an_experiment_leads_to_its_report(
    tracked: Tracked, server: str, page: tuple[Any, list[str]]
) -> None:
    opened, errors = page
    chain = next(run for run in tracked.parents if "everest.comparison" not in run["tags"])
    opened.goto(f"{server}/#/experiments/{tracked.experiment}/runs/{chain['id']}")
    opened.get_by_role("link", name="report", exact=False).first.wait_for()
    assert own(errors) == []
