"""Starting real ranks through torchrun: signals, stalls, locks, and who is told what."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.distributed.heartbeat import Beat, Pulse, create, gone, read, stalled
from pipeline.distributed.launch import GRACE_SECONDS, Watch, _not_saved, _Signals, command, environment, launch, locked
from pipeline.errors import BusyError, EverestError, InputError, Interrupted
from pipeline.system.files import read_json
from tests.faults import rank_trials


def test_the_launcher_imports_no_torch() -> None:
    code = "import sys, pipeline.distributed.launch, pipeline.training.job; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_start_on_the_same_folder_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(BusyError, match=rf"process {os.getpid()}.*Cure: wait"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_the_lock_lives_as_long_as_a_child_that_inherited_it(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        child = subprocess.Popen(["sleep", "30"], pass_fds=[lock])
    try:
        with pytest.raises(BusyError), locked(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
    with locked(tmp_path):
        pass


def test_several_ranks_are_one_torchrun_and_one_rank_needs_none() -> None:
    assert command("m", ["x"], 1)[1:] == ["-m", "m", "x"]
    several = command("m", ["x"], 8)
    assert several[1:3] == ["-m", "pipeline.distributed.groups"]
    assert "--nproc-per-node=8" in several
    assert several[-3:] == ["-m", "m", "x"]


@pytest.mark.slow
def test_a_failed_rank_brings_no_traceback_of_torchruns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EverestError, match=r"NaN|nan|non-finite"):
        launch("tests.faults.toy", [], ranks=2, work=_wish(tmp_path, nan_at=2), threads=1)
    assert capfd.readouterr().err == ""


def test_cores_are_shared_out_among_ranks() -> None:
    assert environment(2, 3)["OMP_NUM_THREADS"] == "3"
    assert int(environment(1000, None)["OMP_NUM_THREADS"]) == 1


def test_beats_travel_through_the_shared_file(tmp_path: Path) -> None:
    create(tmp_path / "beats", 2)
    assert read(tmp_path / "beats") == []
    Pulse(tmp_path / "beats", 1, 9).beat("backward", 7, 3)
    (beat,) = read(tmp_path / "beats")
    assert (beat.rank, beat.pid, beat.step, beat.micro, beat.phase) == (9, os.getpid(), 7, 3, "backward")


def test_the_rank_that_is_furthest_behind_is_named_once_nobody_moves() -> None:
    beats = [Beat(0, 10, 5, 0, "backward", 100.0), Beat(1, 11, 5, 0, "loading", 99.0)]
    assert stalled(beats, 10.0, now=105.0) == []
    assert [beat.rank for beat in stalled(beats, 10.0, now=111.0)] == [1]
    first_step = [Beat(0, 10, 0, 0, "forward", 100.0)]
    assert stalled(first_step, 10.0, now=130.0) == []
    assert stalled(first_step, 10.0, now=141.0) == first_step
    assert stalled([Beat(0, 10, 5, 0, "finished", 1.0)], 10.0, now=999.0) == []


def test_a_rank_whose_process_is_gone_is_known_before_its_parent_has_noticed() -> None:
    child = subprocess.Popen(["sleep", "100"])
    beats = [Beat(0, os.getpid(), 5, 0, "exchange", 1.0), Beat(1, child.pid, 5, 0, "exchange", 1.0)]
    assert gone(beats) == []
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and still in the table of processes
    assert gone(beats) == beats[1:]
    child.wait()
    assert gone(beats) == beats[1:]
    assert gone([Beat(1, child.pid, 5, 0, "finished", 1.0)]) == []


def _wish(work: Path, **wish: object) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    (work / "toy.json").write_text(json.dumps(wish))
    return work


PUPPET = "tests.pipeline.training.puppet"


def _starts(work: Path) -> int:
    return len((work / "starts").read_text())


def test_the_cause_is_told_not_the_exit_code(tmp_path: Path) -> None:
    with pytest.raises(EverestError, match=r"rank 0 failed at step 4: RuntimeError: a bug"):
        launch(PUPPET, ["fail"], ranks=1, work=tmp_path)
    assert read_json(tmp_path / "status.json")["type"] == "RuntimeError"
    assert _starts(tmp_path) == 1


def test_a_users_mistake_keeps_its_exit_code_and_is_not_retried(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x = 1. Cure: 2."):
        launch(PUPPET, ["mistake"], ranks=1, work=tmp_path)
    assert _starts(tmp_path) == 1


def test_a_rank_that_dies_without_a_word_is_started_again_a_bounded_number_of_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EverestError, match=r"SIGKILL.*without an account"):
        launch(PUPPET, ["die"], ranks=1, work=tmp_path, watch=Watch(60, max_restarts=2))
    assert _starts(tmp_path) == 3
    assert read_json(tmp_path / "status.json")["attempt"] == 2
    again = [record.getMessage() for record in caplog.records if "Starting again" in record.getMessage()]
    assert len(again) == 2
    assert not any("Cure" in line for line in again), "nobody has to do anything"


def test_a_good_end_is_quiet(tmp_path: Path) -> None:
    launch(PUPPET, ["done"], ranks=1, work=tmp_path)
    assert read_json(tmp_path / "status.json")["state"] == "done"


def test_a_stop_before_any_rank_has_begun_ends_them_at_once() -> None:
    signals = _Signals()
    signals.note(signal.SIGTERM)
    assert signals.signal == "SIGTERM"
    assert signals.obeyed([], 2)


def test_a_stop_waits_for_all_ranks_to_listen_and_then_tells_each(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        signals = _Signals()
        signals.note(signal.SIGUSR1)
        signals.note(signal.SIGINT)
        listening = Beat(0, child.pid, 3, 0, "forward", 0.0)
        assert not signals.obeyed([listening], 2)
        assert child.poll() is None
        assert not signals.obeyed([listening, Beat(1, os.getpid(), 3, 0, "finished", 0.0)], 2)
        assert child.wait(5) == -signal.SIGUSR1
    finally:
        child.kill()
        child.wait()


def test_ranks_that_do_not_reach_a_step_boundary_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = _Signals()
    signals.note(signal.SIGINT)
    signals._since -= GRACE_SECONDS + 1
    assert signals.obeyed([Beat(0, os.getpid(), 3, 0, "finished", 0.0)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_a_signal_while_torchrun_still_starts_is_not_lost(tmp_path: Path, seconds: float) -> None:
    work = _wish(tmp_path, seconds=0.05, epochs=10_000)
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted, match="stopped by SIGINT"):
        launch("tests.faults.toy", [], ranks=2, work=work, threads=1)


@pytest.mark.slow
def test_sigint_through_torchrun_saves_on_both_ranks_and_a_second_start_continues(tmp_path: Path) -> None:
    figure = rank_trials.signals(tmp_path, names=("SIGINT",))
    assert (figure.trials, figure.bad) == (1, 0)


def test_a_validation_that_goes_on_is_waited_for_and_one_that_hangs_is_not() -> None:
    signals = _Signals()
    signals.note(signal.SIGINT)
    signals._since -= GRACE_SECONDS + 1
    signals._said = time.monotonic()
    now = time.monotonic()
    assert not signals.obeyed([Beat(0, os.getpid(), 3, 0, "validating", now)], 1)
    assert signals.obeyed([Beat(0, os.getpid(), 3, 0, "validating", now - GRACE_SECONDS - 1)], 1)
    assert "did not save within 60 s" in _not_saved("SIGINT", [Beat(0, 1, 3, 0, "validating", now)])
    assert "before a step was done" in _not_saved("SIGINT", [Beat(0, 1, 0, 0, "loading", now)])


@pytest.mark.slow
def test_every_signal_saves(tmp_path: Path) -> None:
    assert rank_trials.signals(tmp_path).bad == 0


def test_a_training_that_was_frozen_whole_is_not_taken_for_a_stalled_one(tmp_path: Path, root: Path) -> None:
    _wish(tmp_path, seconds=0.05, epochs=4, checkpoint_every_steps=10**6)  # a slow disk is not what is tested
    words = f"launch('tests.faults.toy', [], ranks=1, work=Path({str(tmp_path)!r}), threads=1, watch=Watch(4.0, 1))"
    imports = "from pathlib import Path; from pipeline.distributed.launch import Watch, launch"
    launcher = subprocess.Popen([sys.executable, "-c", f"{imports}; {words}"], cwd=root)
    until = time.monotonic() + 120
    while not (beats := read(tmp_path / "beats") if (tmp_path / "beats").exists() else []) or beats[0].step < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    for pid in (launcher.pid, beats[0].pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(launcher.pid, signal.SIGCONT)
    time.sleep(0.5)  # it looks before the rank has moved
    os.kill(beats[0].pid, signal.SIGCONT)
    assert launcher.wait(120) == 0
    assert json.loads((tmp_path / "status.json").read_text())["attempt"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["hang_at", "freeze_at", "kill_at"])
def test_a_stalled_rank_is_named_with_its_stack_and_the_run_finishes(tmp_path: Path, what: str) -> None:
    assert rank_trials.stalls(tmp_path, what).bad == 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "torchrun"])
def test_no_rank_outlives_its_launcher(tmp_path: Path, victim: str) -> None:
    work = _wish(tmp_path, seconds=0.05, epochs=10_000)
    code = (
        "import sys; from pathlib import Path; from pipeline.distributed.launch import launch\n"
        "launch('tests.faults.toy', [], ranks=2, work=Path(sys.argv[1]), threads=1)"
    )
    parent = psutil.Process(subprocess.Popen([sys.executable, "-c", code, str(work)]).pid)
    until = time.monotonic() + 120
    while time.monotonic() < until and not ((work / "beats").exists() and len(read(work / "beats")) == 2):
        time.sleep(0.2)
    below = parent.children(recursive=True)
    assert len(below) >= 3
    target = parent if victim == "launcher" else next(p for p in below if "pipeline.distributed.groups" in p.cmdline())
    target.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=30)
    if victim == "torchrun":
        parent.send_signal(signal.SIGKILL)
    assert alive == []
    with (work / "beats").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
