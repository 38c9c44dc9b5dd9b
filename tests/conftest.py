"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests measure results, not speed: one thread a process keeps parallel ranks from fighting over the cores, and lets
# ranks be forked, which hang where the parent has had several.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
# The suite is for a CPU, whatever the machine has; and autograd refuses to run in forks where it has found a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Servers of tests are on loopback, to which no proxy leads.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

# A shell's background jobs ignore Ctrl-C, and what runs under nohup HUP; what the tests start would inherit that.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The same examples everywhere, however slow or busy the machine is.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run abreast, those of a file stay together, and all that use the chain's one run."""
    for item in items:
        name = "chain" if item.get_closest_marker("e2e") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real clips and official split files beside the checkout; a test that needs them is skipped without."""
    folder = ROOT.parent / "shared"
    if not (folder / "clips").is_dir():
        pytest.skip("needs the real clips in ../shared, which are not part of the project")
    return folder
