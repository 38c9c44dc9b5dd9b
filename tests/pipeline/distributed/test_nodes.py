"""Several nodes: two launchers on the loopback, each with a rank, are one training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ports import free_port

from pipeline.distributed.heartbeat import read
from pipeline.distributed.launch import command
from pipeline.distributed.nodes import Node, this_node
from pipeline.errors import InputError
from pipeline.system.files import read_json
from tests.faults import rank_trials

LAUNCH = (
    "import logging, sys; from pathlib import Path; from pipeline.errors import EverestError\n"
    "from pipeline.distributed.launch import Watch, launch, locked\n"
    "logging.basicConfig(level=logging.WARNING)\n"
    "work = Path(sys.argv[1])\n"
    "try:\n"
    "    with locked(work) as lock:\n"
    "        launch('tests.faults.toy', [], ranks=1, work=work, threads=1, locks=[lock], watch=Watch(60, 2))\n"
    "except EverestError as error:\n"
    "    sys.exit(f'{type(error).__name__}: {error}')\n"
)


@pytest.fixture
def no_nodes(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_RDZV_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def _start(work: Path, rank: int, port: int) -> subprocess.Popen[str]:
    environment = {
        **os.environ, "PET_NNODES": "2", "PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    code = [sys.executable, "-c", LAUNCH, str(work)]
    return subprocess.Popen(code, env=environment, stderr=subprocess.PIPE, text=True)


def _both(work: Path, **wish: object) -> list[subprocess.Popen[str]]:
    work.mkdir(parents=True)
    (work / "toy.json").write_text(json.dumps({"dropout": 0.0, "epochs": 3, **wish}))
    port = free_port()
    return [_start(work, rank, port) for rank in range(2)]


def _ends(nodes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    said = [node.communicate(timeout=200)[1] for node in nodes]
    return [(node.returncode, words) for node, words in zip(nodes, said, strict=True)]


def test_a_lone_machine_needs_no_environment(no_nodes: pytest.MonkeyPatch) -> None:
    assert this_node() == Node()
    assert Node().named("beats") == "beats"
    assert "--standalone" in command("m", [], 2, Node())


def test_the_place_among_nodes_is_torchruns_own_environment(no_nodes: pytest.MonkeyPatch) -> None:
    no_nodes.setenv("PET_NNODES", "4")
    no_nodes.setenv("PET_NODE_RANK", "3")
    no_nodes.setenv("PET_MASTER_ADDR", "node-a")
    node = this_node()
    assert node == Node(4, 3, "node-a", 29400)
    assert node.named("beats") == "beats-node-3"
    assert node.named("status.json") == "status-node-3.json"
    several = command("m", [], 1, node)
    assert {"--nnodes=4", "--rdzv-backend=c10d", "--rdzv-endpoint=node-a:29400", "--rdzv-id=everest"} <= set(several)
    assert "--rdzv-conf=is_host=false" in several


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PET_NNODES": "1:2"}, r"PET_NNODES = '1:2': expected a whole number"),
        ({"PET_NNODES": "2"}, r"PET_NODE_RANK = '': expected a whole number.*compute.launcher: slurm"),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "2"}, r"PET_NODE_RANK = 2 with PET_NNODES = 2: expected 0 to 1"),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "0"}, r"PET_MASTER_ADDR is not set.*host of node 0"),
    ],
)
def test_a_wrong_place_is_named(no_nodes: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    for name, value in variables.items():
        no_nodes.setenv(name, value)
    with pytest.raises(InputError, match=message):
        this_node()


@pytest.mark.slow
def test_two_nodes_of_one_rank_have_the_losses_of_one_node_of_two(tmp_path: Path) -> None:
    rank_trials.forked(tmp_path / "one", 2, {"dropout": 0.0, "epochs": 3})
    ends = _ends(_both(tmp_path / "two"))
    assert [code for code, _ in ends] == [0, 0], ends
    assert rank_trials.losses(tmp_path / "two") == rank_trials.losses(tmp_path / "one")
    assert read_json(tmp_path / "two" / "status.json")["state"] == "done"


@pytest.mark.slow
def test_when_a_rank_of_one_node_is_killed_both_start_again_and_finish(tmp_path: Path) -> None:
    rank_trials.forked(tmp_path / "one", 2, {"dropout": 0.0, "epochs": 3})
    ends = _ends(_both(tmp_path / "two", kill_at=9, rank=1))
    assert [code for code, _ in ends] == [0, 0], ends
    assert rank_trials.losses(tmp_path / "two") == rank_trials.losses(tmp_path / "one")
    assert all("Starting again from the newest checkpoint" in said for _, said in ends)


@pytest.mark.slow
def test_a_signal_to_one_node_saves_on_both(tmp_path: Path) -> None:
    work = tmp_path / "two"
    nodes = _both(work, seconds=0.1, epochs=100)
    until = time.monotonic() + 120
    while time.monotonic() < until and not (_step(work / "beats") > 2 and _step(work / "beats-node-1") > 2):
        time.sleep(0.1)
    nodes[1].send_signal(signal.SIGUSR1)
    ends = _ends(nodes)
    assert all("stopped by SIGUSR1 after step" in said for _, said in ends), ends
    assert (work / "checkpoints").exists()


def _step(beats: Path) -> int:
    return min((beat.step for beat in read(beats)), default=-1) if beats.exists() else -1
