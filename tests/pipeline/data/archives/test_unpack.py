from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.archives.rules import Caps, HostileArchive
from pipeline.data.archives.unpack import unpack
from pipeline.errors import InputError
from pipeline.system import files

NAMES = ("UCF-101/Hand standPushups/v_HandStandPushups_g01_c01.avi", "a's [b] (c)/!()#&;[]+~@.avi")


def contents() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {name: rng.bytes(5000) for name in NAMES}


def read_back(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_tar(path: Path, mode: str, change: Callable[[tarfile.TarInfo], None] | None = None) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in contents().items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change and name == NAMES[1]:
                change(member)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


def make_zip(path: Path, change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents().items():
            info = zipfile.ZipInfo(name)
            if change and name == NAMES[1]:
                change(info)
            archive.writestr(info, content)
    return path


def test_a_tar_cut_anywhere_before_its_end_is_refused(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", "w").read_bytes()
    path = tmp_path / "cut.tar"
    for length in range(512, 2 * (512 + 5120), 128):  # two entries, each a header and padded data
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.tar is (not a whole tar archive|cut off)"):
            unpack(path, tmp_path / "out")


def test_a_damaged_header_within_a_tar_is_not_its_end(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", "w")
    content = bytearray(path.read_bytes())
    content[512 + 5120] ^= 1  # the second entry's name
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a whole tar archive: bad checksum.* Cure: fetch it again"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_comes_out_whatever_its_compression(tmp_path: Path, mode: str) -> None:
    archive = make_tar(tmp_path / "wrongly_named.tar.gz", mode)
    assert unpack(archive, tmp_path / "out") == 2
    assert read_back(tmp_path / "out") == contents()


def test_what_came_out_is_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[dict[str, bytes]] = []
    real = files.flush_file_system

    def flush(folder: Path) -> None:
        assert not (tmp_path / "out").exists()
        real(folder)
        flushed.append(read_back(folder))

    monkeypatch.setattr(files, "flush_file_system", flush)
    unpack(make_zip(tmp_path / "a.zip"), tmp_path / "out")
    assert flushed == [contents()]


def test_a_zip_comes_out(tmp_path: Path) -> None:
    assert unpack(make_zip(tmp_path / "a.zip"), tmp_path / "out") == 2
    assert read_back(tmp_path / "out") == contents()


def test_the_parts_of_a_cut_archive_are_joined(tmp_path: Path) -> None:
    content = make_tar(tmp_path / "whole", "w:gz").read_bytes()
    parts = []
    for number, start in enumerate(range(0, len(content), 3000)):
        parts.append(tmp_path / f"20bn-something-something-v2-{number:02d}")
        parts[-1].write_bytes(content[start : start + 3000])
    assert unpack(parts, tmp_path / "out") == 2
    assert read_back(tmp_path / "out") == contents()
    with pytest.raises(InputError, match="all their parts"):
        unpack(parts[:-1], tmp_path / "less")
    assert not (tmp_path / "less").exists()


def as_type(kind: bytes, target: str = "x") -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, target, 0

    return change


def named(name: str) -> Callable[..., None]:
    def change(entry: tarfile.TarInfo | zipfile.ZipInfo) -> None:
        if isinstance(entry, tarfile.TarInfo):
            entry.name = name
        else:
            entry.filename = name

    return change


def with_mode(mode: int) -> Callable[..., None]:
    def change(entry: tarfile.TarInfo | zipfile.ZipInfo) -> None:
        if isinstance(entry, tarfile.TarInfo):
            entry.mode = mode
        else:
            entry.external_attr = mode << 16

    return change


HOSTILE_TAR = {
    "parent": named("../escaped.avi"),
    "deep parent": named("a/b/../../../escaped.avi"),
    "absolute": named("/tmp/everest_escaped.avi"),
    "symbolic link": as_type(tarfile.SYMTYPE, "/etc/passwd"),
    "relative link": as_type(tarfile.SYMTYPE, NAMES[0]),
    "hard link": as_type(tarfile.LNKTYPE, NAMES[0]),
    "device": as_type(tarfile.CHRTYPE),
    "block device": as_type(tarfile.BLKTYPE),
    "pipe": as_type(tarfile.FIFOTYPE),
    "set user id": with_mode(0o4755),
    "set group id": with_mode(0o2755),
    "twice": named(NAMES[0]),
}
HOSTILE_ZIP = {
    "parent": named("../escaped.avi"),
    "absolute": named("/tmp/everest_escaped.avi"),
    "backslash": named("..\\escaped.avi"),
    "drive": named("C:/escaped.avi"),
    "link": with_mode(stat.S_IFLNK | 0o777),
    "device": with_mode(stat.S_IFCHR | 0o644),
    "set user id": with_mode(stat.S_IFREG | 0o4755),
    "twice": named(NAMES[0]),
}


def check_refused(archive: Path, folder: Path) -> None:
    with pytest.raises(HostileArchive, match="Cure"):
        unpack(archive, folder / "out")
    assert not (folder / "out").exists()
    left = [path.name for path in folder.rglob("*") if path != archive]
    assert left == []  # nothing is left behind, nothing escaped
    assert not Path("/tmp/everest_escaped.avi").exists()


@pytest.mark.parametrize("kind", sorted(HOSTILE_TAR))
def test_a_hostile_tar_is_refused(tmp_path: Path, kind: str) -> None:
    check_refused(make_tar(tmp_path / "a.tar", "w", HOSTILE_TAR[kind]), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", sorted(HOSTILE_ZIP))
def test_a_hostile_zip_is_refused(tmp_path: Path, kind: str) -> None:
    check_refused(make_zip(tmp_path / "a.zip", HOSTILE_ZIP[kind]), tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_stopped_at_the_cap(tmp_path: Path, kind: str) -> None:
    content = bytes(64 << 20)
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros.avi", content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("zeros.avi")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert path.stat().st_size < 100_000
    check_refused(path, tmp_path)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HostileArchive, match="more than 1 entries"):
        unpack(make_zip(tmp_path / "a.zip"), tmp_path / "out", Caps(entries=1))


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_truncated_archive_is_no_archive(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / "a"
    make_zip(path) if kind == "zip" else make_tar(path, "w" if kind == "tar" else "w:gz")
    content = path.read_bytes()
    if kind == "tar":
        content = content.rstrip(b"\0")  # tar pads its end with zeros that carry nothing
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match="fetch it again"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_something_else_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>not found</html>" * 100)
    with pytest.raises(InputError, match="not a whole tar archive"):
        unpack(tmp_path / "page.zip", tmp_path / "out")


def test_what_a_killed_extraction_left_goes_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp/half").mkdir(parents=True)
    (tmp_path / ".other.tmp").mkdir()
    unpack(make_zip(tmp_path / "a.zip"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp", "a.zip", "out"]


def test_a_killed_extraction_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    archive = tmp_path / "big.tar"
    rng = np.random.default_rng(0)
    with tarfile.open(archive, "w") as made:
        for number in range(300):
            member = tarfile.TarInfo(f"{number}.avi")
            member.size = 100_000
            made.addfile(member, io.BytesIO(rng.bytes(100_000)))
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.data.archives import unpack\n"
        "write = unpack._write\n"
        "def stops(content, target, meter):\n"
        "    done = write(content, target, meter)\n"
        "    if len(list(target.parent.iterdir())) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    return done\n"
        "unpack._write = stops; unpack.unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    for count in (1, 150, 300):
        process = subprocess.Popen([sys.executable, "-c", code, str(archive), str(tmp_path / "out"), str(count)])
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert len(list((tmp_path / ".out.tmp").iterdir())) == count
        assert not (tmp_path / "out").exists()
    assert unpack(archive, tmp_path / "out") == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.tar", "out"]
