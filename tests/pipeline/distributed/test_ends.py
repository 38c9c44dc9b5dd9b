"""Records of how ranks ended, and whether they are started again: by kind, never by an error's words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.distributed import ends
from pipeline.distributed.ends import PeerLost, RankEnd
from pipeline.distributed.groups import Ranks
from pipeline.distributed.launch import Watch, launch
from pipeline.distributed.nodes import TORCHRUN, Node
from pipeline.errors import EverestError, InputError, Interrupted
from pipeline.system.files import read_json
from tests.faults import rank_trials

#: What the words of an error once decided.
WORDS = ("DataLoader worker", "DistBackendError", "DistNetworkError", "DistStoreError", "Connection refused", "NCCL")


@pytest.mark.parametrize("words", WORDS)
def test_an_errors_words_do_not_start_ranks_again(words: str) -> None:
    assert not RankEnd.of(0, 4, RuntimeError(f"table {words} has no column 3")).retry
    assert not RankEnd.of(0, 4, EverestError(words)).retry


@pytest.mark.parametrize(
    ("end", "retry"),
    [
        (RankEnd.of(0, 4, None), False),
        (RankEnd.of(0, 4, Interrupted("saved")), False),
        (RankEnd.of(0, 4, InputError("x = 1")), False),
        (RankEnd.of(0, 4, PeerLost("gone")), True),
        (RankEnd.without_a_word(0, -9), True),
        (RankEnd.without_a_word(0, -50), True),
        (RankEnd.without_a_word(0, 1), False),
        (RankEnd("stalled"), True),
    ],
)
def test_kind_and_exit_status_decide(end: RankEnd, retry: bool) -> None:
    assert end.retry is retry


def test_the_first_node_also_forgets_the_ends_on_nodes_that_are_no_more(tmp_path: Path) -> None:
    for number in range(12):
        ends.record(tmp_path, RankEnd("failed", number), Node(12, number))
    ends.forget(tmp_path, Node(2, 1))
    assert [ends.count(tmp_path, number) for number in range(12)] == [1, 0, *[1] * 10]
    ends.forget(tmp_path, Node(2, 0))
    assert ends.read_all(tmp_path) == []


def test_of_several_ends_the_one_that_the_others_followed_from_decides() -> None:
    bug, echo = RankEnd("failed", 1, at=2.0, cause="bug"), RankEnd("failed", 0, at=1.0, cause="peer")
    killed, explained = RankEnd("killed", 2, at=3.0), RankEnd("failed", 3, at=4.0, cause="explained")
    done = RankEnd("done", 4)
    assert ends.decisive([done]) is None
    assert ends.decisive([echo, done]) is echo
    assert ends.decisive([echo, bug]) is bug
    assert ends.decisive([echo, bug, killed]) is killed
    assert ends.decisive([echo, bug, killed, explained]) is explained


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    end = RankEnd.of(3, 7, ValueError("a bug"))
    ends.record(tmp_path, end)
    assert ends.read_all(tmp_path) == [end]
    assert json.loads((tmp_path / "ends/rank-3.json").read_text())["cause"] == "bug"


def test_of_two_ranks_the_killed_one_decides_whatever_the_other_says(tmp_path: Path) -> None:
    first, second = rank_trials.forked(tmp_path, 2, {"kill_at": 3})
    assert (second.state, second.rank) == ("killed", 1)
    assert first.state == "failed"
    decisive = ends.decisive([first, second])
    assert decisive == second
    assert decisive.retry


def test_of_two_ranks_the_one_with_a_bug_decides_though_it_speaks_of_a_connection(tmp_path: Path) -> None:
    message = "Connection to the sample table lost its third column"
    first, second = rank_trials.forked(tmp_path, 2, {"fail_at": 3, "message": message})
    assert (second.cause, second.message) == ("bug", message)
    assert first.state == "failed"
    decisive = ends.decisive(ends.read_all(tmp_path))
    assert decisive == second
    assert not decisive.retry


def test_a_peer_that_is_killed_during_our_own_exchange_is_a_lost_peer(tmp_path: Path) -> None:
    def train(_work: Path, ranks: Ranks, _pulse: object, _stop: object) -> None:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.sum_(torch.zeros(1))

    first, second = rank_trials.forked(tmp_path, 2, train=train)
    assert (first.cause, first.type) == ("peer", "PeerLost")
    assert second.state == "killed"


@pytest.mark.slow
def test_through_torchrun_a_bug_is_told_once_and_a_kill_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, wish in (("bug", {"fail_at": 3, "message": "NCCL Connection"}), ("kill", {"kill_at": 3, "always": True})):
        work = tmp_path / name
        work.mkdir()
        (work / "toy.json").write_text(json.dumps(wish))
        with pytest.raises(EverestError) as caught:
            launch("tests.faults.toy", [], ranks=2, work=work, threads=1, watch=Watch(60, 1))
        end = read_json(work / "status.json")
        assert (end["rank"], end["attempt"]) == ((1, 0) if name == "bug" else (1, 1)), end
        assert ("rank 1 failed" if name == "bug" else "rank 1 was killed by SIGKILL") in str(caught.value)
        messages = [record.getMessage() for record in caplog.records if record.getMessage().startswith("ranks: ")]
        assert bool(messages) is (name == "kill")
    assert messages[0].startswith("ranks: rank 1 (process ")
    assert "Starting again from the newest checkpoint (1 of 1)" in messages[1]


def test_a_rank_whose_torchrun_ended_before_it_could_ask_to_be_told_ends_too(tmp_path: Path) -> None:
    code = "import sys, pathlib; from pipeline.distributed.rank import live; live(pathlib.Path(sys.argv[1]), print)"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    started = {**os.environ, "TORCHELASTIC_RUN_ID": "none", TORCHRUN: str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=started, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
