"""GPUs are taken and given back by lock files; here names that stand for them, on a machine without any."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from pipeline.distributed.device_table import DeviceTable, device_table
from pipeline.distributed.devices import _shared, holders, listed, taken
from pipeline.distributed.start import devices
from pipeline.errors import InputError
from pipeline.params import ComputeParams, load_params
from pipeline.preflight.machine import visible_gpus
from pipeline.system.locks import is_free

#: Takes devices, says which, and keeps them until its stdin ends.
STAGE = (
    "import json, logging, os, sys\n"
    "from pipeline.distributed.devices import taken\n"
    "logging.basicConfig(format='%(message)s')\n"
    "with taken(json.loads(sys.argv[1]), sys.argv[2]) as got:\n"
    "    print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    "    sys.stdin.read()\n"
)


class Stage:
    """Another process that asks for devices."""

    def __init__(self, wanted: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAGE, wanted, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self._stdout = self.process.stdout.fileno()
        os.set_blocking(self._stdout, False)
        self._got = ""

    @property
    def got(self) -> str:
        """The devices that it holds; empty while it waits."""
        with contextlib.suppress(BlockingIOError):
            self._got += os.read(self._stdout, 1000).decode()
        return self._got.strip()

    def give_back(self) -> str:
        """What it said while it waited."""
        return self.process.communicate("", timeout=100)[1]


@pytest.fixture(autouse=True)
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four devices, a to d, with locks of this test's own."""
    locks = tmp_path / "locks"
    monkeypatch.setenv("EVEREST_DEVICES", "a,b,c,d")
    monkeypatch.setenv("EVEREST_DEVICE_LOCKS", str(locks))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # where there are GPUs, too
    return locks


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 100
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def waiting(locks: Path, count: int) -> None:
    until(lambda: len(list((locks / "queue").glob("[0-9]*.json"))) == count)


def test_two_halves_are_used_side_by_side_and_the_whole_waits_for_both(four: Path) -> None:
    first, second = Stage("2", "finetune@motion"), Stage("2", "finetune@state")
    until(lambda: first.got and second.got)
    assert sorted((first.got + "," + second.got).split(",")) == ["a", "b", "c", "d"]
    whole = Stage("4", "pretrain")
    waiting(four, 1)
    first.give_back()
    time.sleep(2.5)
    assert whole.got == ""
    second.give_back()
    until(lambda: whole.got == "a,b,c,d")
    assert {who.stage for who in holders().values()} == {"pretrain"}
    said = whole.give_back()
    assert "ranks: pretrain waits for 4 GPU(s): held by run everest (finetune@" in said
    assert holders() == {}


def test_who_waits_longest_is_served_first_and_nobody_waits_for_a_gpu_that_none_before_wants(four: Path) -> None:
    with taken([0], "holder"):
        whole = Stage("[0, 1]", "first")
        waiting(four, 1)
        late = Stage("[1]", "late")  # is free, and promised
        other = Stage("1", "other")
        until(lambda: other.got)
        assert other.got in ("c", "d")
        waiting(four, 2)
        time.sleep(2.5)
        assert (whole.got, late.got) == ("", "")
    until(lambda: whole.got == "a,b")
    assert late.got == ""
    whole.give_back()
    until(lambda: late.got == "b")
    for stage in (late, other):
        stage.give_back()


def test_a_table_says_who_has_which_and_who_waits_and_locks_nothing(four: Path) -> None:
    assert device_table() == DeviceTable()
    assert not four.exists(), "looking makes no folder"
    with taken([1, 3], "pretrain"):
        first, second = Stage("4", "finetune@motion"), Stage("[1]", "evaluate@motion")
        waiting(four, 2)
        until(lambda: len(device_table().waiting) == 2)
        table = device_table()
        assert {one.device: one.holder.stage for one in table.held if one.holder} == {"b": "pretrain", "d": "pretrain"}
        assert {one.holder.pid for one in table.held if one.holder} == {os.getpid()}
        assert {(one.count, one.holder.stage, one.holder.pid) for one in table.waiting} == {
            (4, "finetune@motion", first.process.pid), (1, "evaluate@motion", second.process.pid),
        }  # fmt: skip
    until(lambda: first.got or second.got)
    for stage in (first, second):
        stage.process.kill()
        stage.process.wait()
    assert device_table() == DeviceTable(), "what the killed have left is nobody's"


def test_a_killed_stage_holds_nothing_and_one_killed_while_it_waited_holds_up_nobody(four: Path) -> None:
    holder = Stage("4", "holder")
    until(lambda: holder.got)
    waiter = Stage("4", "waiter")
    waiting(four, 1)
    waiter.process.kill()
    waiter.process.wait()
    holder.process.kill()
    holder.process.wait()
    with taken(4, "next") as got:
        assert got.names == ("a", "b", "c", "d")
    assert list((four / "queue").iterdir()) == []


def test_a_start_that_was_killed_while_it_took_its_place_in_the_queue_holds_up_nobody(four: Path) -> None:
    queue = four / "queue"
    queue.mkdir(parents=True)
    wish = json.dumps({"count": 4, "allowed": ["a", "b", "c", "d"]})
    (queue / "00000000000000000001-7.json").write_text(wish)  # no lock beside it
    (queue / ".00000000000000000002-7.json.1a2b3c4d.part.json").write_text(wish)  # never got its name
    began = time.monotonic()
    with taken([0], "next") as got:
        assert got.names == ("a",)
        assert time.monotonic() - began < 1
    assert [path.name[0] for path in queue.iterdir()] == ["."]


def test_a_wish_appears_under_a_lock_and_leaves_nothing_where_it_cannot_be_written(
    four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def refused(path: Path, record: object) -> None:
        seen.append((path.with_suffix(".lock").exists(), is_free(path.with_suffix(".lock"))))
        raise OSError("no space left on device")

    monkeypatch.setattr("pipeline.distributed.devices.write_json", refused)
    with pytest.raises(OSError, match="no space left"), taken([0], "next"):
        pass
    assert seen == [(True, False)]
    assert list((four / "queue").iterdir()) == []


def test_ranks_that_outlive_their_stage_keep_its_devices() -> None:
    with taken(3, "pretrain") as got:
        ranks = subprocess.Popen(["sleep", "100"], pass_fds=got.descriptors)
    try:
        other = Stage("2", "other")
        time.sleep(2.5)
        assert other.got == ""
    finally:
        ranks.kill()
        ranks.wait()
    until(lambda: other.got)
    other.give_back()


def test_what_was_visible_before_is_visible_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    with taken([1, 3], "pretrain") as got:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "b,d"
        assert got.names == ("b", "d")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "none"


@pytest.mark.parametrize(
    ("wanted", "words"), [(5, "compute.gpus = 5, and 4 GPU"), ([0, 4], r"compute.gpus names \[4\].*numbered from 0")]
)
def test_what_the_machine_has_not_is_refused(wanted: int | list[int], words: str) -> None:
    with pytest.raises(InputError, match=words), taken(wanted, "pretrain"):
        pass


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A driver of three GPUs, as a stage of a colleague sees it."""
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda number: number)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda number: f"GPU-{'abc'[number]}{number}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("EVEREST_DEVICES")
    return monkeypatch


def test_a_gpu_has_one_lock_whether_it_is_named_by_number_by_uuid_or_by_the_driver(
    driver: pytest.MonkeyPatch, four: Path
) -> None:
    assert listed() == ["GPU-a0", "GPU-b1", "GPU-c2"]
    driver.setenv("EVEREST_DEVICES", "2, GPU-b1,GPU-c,1, MIG-7/1/0")
    assert listed() == ["GPU-c2", "GPU-b1", "MIG-7/1/0"]
    with taken(2, "pretrain") as got:
        assert got.names == ("GPU-c2", "GPU-b1")
        assert listed() == ["GPU-c2", "GPU-b1", "MIG-7/1/0"]
        assert sorted(path.name for path in four.glob("*.lock")) == ["GPU-b1.lock", "GPU-c2.lock", "MIG-7_1_0.lock"]
        driver.delenv("EVEREST_DEVICES")
        driver.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
        assert list(holders()) == ["GPU-b1", "GPU-c2"]


@pytest.mark.parametrize("name", ["3", "a", "GPU-", "GPU-z"])
def test_a_name_that_no_gpu_of_the_machine_has_is_refused(driver: pytest.MonkeyPatch, name: str) -> None:
    driver.setenv("EVEREST_DEVICES", f"0,{name}")
    with pytest.raises(InputError, match=rf"EVEREST_DEVICES names '{name}': expected numbers from 0 to 2.*Cure: see"):
        listed()


def _compute(**values: object) -> ComputeParams:
    return load_params(
        Path(__file__).parents[3] / "params.yaml", {f"compute.{k}": v for k, v in values.items()}
    ).compute


def test_each_stage_takes_what_params_yaml_gives_it_and_has_as_many_ranks() -> None:
    compute = _compute(gpus={"pretrain": 4, "finetune": [1, 2]})
    assert (compute.ranks_of("pretrain"), compute.ranks_of("finetune"), compute.ranks_of("evaluate")) == (4, 2, 2)
    with devices(compute, "finetune", "motion") as descriptors:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "b,c"
        assert len(descriptors) == 2
        assert next(iter(holders().values())).stage == "finetune@motion"
    with devices(_compute(gpus=3), "pretrain", None):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "a,b,c"


def test_whoever_needs_no_gpu_never_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with taken(4, "pretrain"):
        for compute in (_compute(device="cpu"), _compute(launcher="slurm")):
            with devices(compute, "finetune", "motion") as descriptors:
                assert descriptors == ()
        monkeypatch.setenv("EVEREST_DEVICES", "")
        assert (listed(), visible_gpus()) == ([], 0)
        with devices(_compute(), "finetune", "motion") as descriptors:
            assert descriptors == ()


@pytest.mark.parametrize("gpus", [0, [], [0, 0], {"report": 1}, {}, True, "4"])
def test_a_wrong_number_of_gpus_is_named_in_one_line(gpus: object) -> None:
    with pytest.raises(InputError, match=r"compute.gpus.*expected null, how many.*Cure: gpus: 4") as caught:
        _compute(gpus=gpus)
    assert len(str(caught.value).splitlines()) == 1


def test_colleagues_may_lock_the_same_files(four: Path) -> None:
    with taken(1, "pretrain"):
        assert (four / "a.lock").stat().st_mode & 0o777 == 0o666
        assert four.stat().st_mode & 0o777 == 0o777


def test_a_lock_file_that_is_swapped_for_a_link_while_it_is_made_opens_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    make = os.open

    def swapped(path: Path, flags: int, mode: int) -> int:
        descriptor = make(path, flags, mode)
        Path(path).unlink()
        Path(path).symlink_to(secret)
        return descriptor

    monkeypatch.setattr(os, "open", swapped)
    _shared(tmp_path / "GPU-0.lock")
    assert secret.stat().st_mode & 0o777 == 0o600
