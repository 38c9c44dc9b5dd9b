from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.looking import show
from pipeline.errors import EverestError, InputError
from pipeline.system import files
from pipeline.system.files import atomic_folder, atomic_path, leftovers, publish_folder, require_space, size_text


def test_a_size_is_told_in_a_unit_of_which_there_is_one() -> None:
    sizes = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 3 << 20: "3.0 MiB", 5 << 29: "2.5 GiB"}
    assert {count: size_text(count) for count in sizes} == sizes


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def test_a_file_that_fails_midway_never_appears(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError):
        write_half(tmp_path / "a.txt")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_folder_takes_the_place_of_the_one_before_it_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "a"
    for text in ("old", "new"):
        with atomic_folder(place) as building:
            (building / "deep").mkdir()
            (building / "deep/file").write_text(text)
            assert text == "old" or (place / "deep/file").read_text() == "old"
    assert (place / "deep/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_fails_midway_never_appears(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    (place / "file").write_text("old")
    with contextlib.suppress(KeyError), atomic_folder(place) as building:
        (building / "file").write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (place / "file").read_text() == "old"


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path: Path) -> None:
    place = tmp_path / "a"
    for left in leftovers(place):
        (left / "half").mkdir(parents=True)
    with atomic_folder(place) as building:
        (building / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in place.iterdir()] == ["file"]


PUBLISH = """
import itertools, sys
from pathlib import Path
from pipeline.system.files import atomic_folder
for number in itertools.count():
    with atomic_folder(Path(sys.argv[1])) as building:
        for name in "abc":
            (building / name).write_text(str(number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03])
def test_kill_9_leaves_a_complete_folder(tmp_path: Path, root: Path, delay: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(tmp_path / "a")], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.wait()
    process.stdout.close()
    assert len({(tmp_path / "a" / name).read_text() for name in "abc"}) == 1


def finished(tmp_path: Path) -> tuple[Path, Path]:
    """A folder to publish, and its place, which an older one has."""
    made, place = tmp_path / "work" / "final", tmp_path / "outputs" / "a"
    for folder, text in ((made, "new"), (place, "old")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
    return made, place


def test_a_folders_name_stands_for_the_old_or_the_new_one_after_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, place = finished(tmp_path)
    seen: list[tuple[str, str]] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            seen.append(((place / "file").read_text(), (made / "file").read_text() if made.exists() else "-"))
            return result

        return call

    for owner, name in ((Path, "rename"), (files, "_exchange"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    publish_folder(made, place)
    # Never the old one where the new one was: it would be published again.
    assert list(dict.fromkeys(seen)) == [("old", "new"), ("old", "-"), ("new", "-")]
    assert [path.name for path in (*made.parent.iterdir(), *place.parent.iterdir())] == ["a"]


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_folder_is_published_to_another_disk_and_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    made, place = finished(tmp_path)
    rename = Path.rename

    def on_one_disk(self: Path, target: Path) -> Path:
        if self == made:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", on_one_disk)
    if not exchanged:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    publish_folder(made, place)
    assert (place / "file").read_text() == "new"
    assert [path.name for path in (*made.parent.iterdir(), *place.parent.iterdir())] == ["a"]


def test_space_is_asked_for_before_work_starts(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1, "it")
    with pytest.raises(EverestError, match="it needs 1000000.0 GiB") as caught:
        require_space(tmp_path, 10**6 * 2**30, "it")
    assert caught.value.exit_code == 1, "a full disk is no fault of what was given"


def test_results_are_not_written_where_a_file_has_the_folders_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="it is a file, or lies below one. Cure: name a folder"):
            show(tmp_path / "any.mp4", out=out)
