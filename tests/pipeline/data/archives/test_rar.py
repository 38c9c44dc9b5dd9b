"""Real rar archives of both formats, through the real unar and bsdtar."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rar_writer import STAND_IN, Entry, entries_of, install, rar4, rar5

from pipeline.data.archives import rar as archives_rar
from pipeline.data.archives.rar_headers import entries
from pipeline.data.archives.rules import Caps, HostileArchive
from pipeline.data.archives.unpack import unpack
from pipeline.distributed.heartbeat import lives
from pipeline.errors import InputError

FORMATS = {"RAR 4": rar4, "RAR 5": rar5}
FILES = {
    "UCF-101/Hand standPushups/v_HandStandPushups_g01_c01.avi": b"moving pictures" * 500,
    "a's [b] (c)/!()#&;[]+~@ x.avi": bytes(range(256)) * 30,
    'wave/\u00fcber 50% "quoted" .avi': b"x",
    "wave/-rf.avi": b"yz",
}
LINK = stat.S_IFLNK | 0o777

both_formats = pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [archives_rar.TOOLS[tool][0] for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing), reason=f"needs Debian's package {' '.join(missing)}")


def only(monkeypatch: pytest.MonkeyPatch, *tools: str) -> None:
    """Try these tools alone, in this order."""
    monkeypatch.setattr(archives_rar, "TOOLS", {tool: archives_rar.TOOLS[tool] for tool in tools})


def read_back(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_rar(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@both_formats
@pytest.mark.parametrize("tool", [pytest.param(tool, marks=needs(tool)) for tool in ("unar", "bsdtar")])
def test_each_tool_gives_every_name_and_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: type, tool: str
) -> None:
    only(monkeypatch, tool)
    archive = write_rar(tmp_path / "-a (1).rar", write(entries_of(FILES)))
    assert unpack(archive, tmp_path / "out") == len(FILES)
    assert read_back(tmp_path / "out") == FILES


@both_formats
@pytest.mark.parametrize("tool", [pytest.param(tool, marks=needs(tool)) for tool in ("unar", "bsdtar")])
def test_rars_in_a_rar_come_out_whatever_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: type, tool: str
) -> None:
    only(monkeypatch, tool)
    # Names that differ in one digit: unar takes such files for volumes of one archive.
    classes = {
        f"class{n}": {f"class{n}/clip #{k}! (x)&[y];+~@.avi": bytes([n, k] * 99) for k in (1, 2)} for n in (1, 2)
    }
    inner = {f"{name}.rar": write(entries_of(files)) for name, files in classes.items()}
    archive = write_rar(tmp_path / "hmdb51_org.rar", write(entries_of(inner)))
    assert unpack(archive, tmp_path / "out") == 4
    assert read_back(tmp_path / "out") == classes["class1"] | classes["class2"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["class1", "class2"]


@needs("unar", "bsdtar")
@both_formats
def test_what_one_tool_cannot_read_the_other_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: type) -> None:
    solid = write_rar(tmp_path / "solid.rar", write(entries_of(FILES), solid=True))
    only(monkeypatch, "bsdtar")
    with pytest.raises(InputError, match=r"bsdtar: 1 of 4 files came out, exit code 1: .*olid"):
        unpack(solid, tmp_path / "out")
    monkeypatch.undo()
    only(monkeypatch, "bsdtar", "unar")
    assert unpack(solid, tmp_path / "out") == len(FILES)
    assert read_back(tmp_path / "out") == FILES


@needs("bsdtar")
def test_an_exit_code_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "bsdtar")
    whole = rar5(entries_of(FILES))
    listed = entries(write_rar(tmp_path / "whole.rar", whole))
    cut = write_rar(tmp_path / "cut.rar", whole[:-15])
    command = ["bsdtar", "-xf", str(cut), "-C", str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0  # yet a file is missing
    assert not (tmp_path / "wave/-rf.avi").exists()
    with pytest.raises(InputError, match=r"cut\.rar is cut off or damaged"):
        unpack(cut, tmp_path / "out")
    # Where the headers can be read, the tool's files are compared with them.
    monkeypatch.setattr(archives_rar, "entries", lambda _: listed)
    with pytest.raises(InputError, match="bsdtar: 3 of 4 files came out"):
        unpack(cut, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs("unar", "bsdtar")
@both_formats
def test_damaged_bytes_are_never_accepted(tmp_path: Path, write: type) -> None:
    damaged = [Entry(name, content, wrong_crc=not number) for number, (name, content) in enumerate(FILES.items())]
    archive = write_rar(tmp_path / "a.rar", write(damaged))
    with pytest.raises(InputError, match=r"unar: 1 of 4 .* damaged.*bsdtar: 1 of 4 .* damaged\. Cure: fetch it again"):
        unpack(archive, tmp_path / "out")  # bsdtar alone compares no checksum and ends with 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.rar"]


@both_formats
def test_a_cut_archive_is_refused_at_any_length(tmp_path: Path, write: type) -> None:
    whole = write([Entry("a.avi", b"abc" * 20), Entry("b.avi", b"defg" * 20)])
    accepted = []
    for length in range(6, len(whole)):
        with contextlib.suppress(InputError):
            if len(entries(write_rar(tmp_path / "a.rar", whole[:length]))) == 1:
                accepted.append(length)
    # The older format needs no end block: a cut just between two files is told by counting videos alone.
    assert len(accepted) == (1 if write is rar4 else 0)


HOSTILE = {
    "parent": Entry("../escaped.avi", b"x"),
    "deep parent": Entry("a/b/../../../escaped.avi", b"x"),
    "absolute": Entry("/tmp/everest_escaped.avi", b"x"),
    "drive": Entry("C:/escaped.avi", b"x"),
    "link": Entry("x.avi", b"/etc/passwd", LINK),
    "device": Entry("x.avi", b"", stat.S_IFCHR | 0o644),
    "set user id": Entry("x.avi", b"x", stat.S_IFREG | 0o4755),
    "bomb": Entry("x.avi", bytes(1 << 21)),
}


@needs("unar", "bsdtar")
@both_formats
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_rar_is_refused(tmp_path: Path, write: type, kind: str) -> None:
    archive = write_rar(tmp_path / "a.rar", write([Entry("good.avi", b"good"), HOSTILE[kind]]))
    with pytest.raises(HostileArchive, match="Cure"):
        unpack(archive, tmp_path / "out", Caps(bytes=1 << 20))
    assert [path.name for path in tmp_path.iterdir()] == ["a.rar"]
    assert not Path("/tmp/everest_escaped.avi").exists()


GIVES_UP = "#!/bin/sh\necho unsupported method\nexit 3\n"
DOES_NOTHING = "#!/bin/sh\nexit 0\n"
LOSES_ONE = STAND_IN + "(folder / name).unlink()\n"
SPOILS_ONE = STAND_IN + "(folder / name).write_bytes(content[::-1])\n"


@pytest.mark.parametrize("first", [GIVES_UP, DOES_NOTHING, LOSES_ONE, SPOILS_ONE])
def test_the_second_tool_is_tried_where_the_first_leaves_less_than_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    archive = write_rar(tmp_path / "a.rar", rar5(entries_of(FILES)))
    install(tmp_path / "bin", {"unar": first, "bsdtar": STAND_IN})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert unpack(archive, tmp_path / "out") == len(FILES)
    assert read_back(tmp_path / "out") == FILES
    (tmp_path / "bin/bsdtar").write_text(first)
    with pytest.raises(InputError, match=r"unar: .*; bsdtar: .*Cure: fetch it again"):
        unpack(archive, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@needs("unar")
def test_what_a_tool_leaves_is_inspected_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "unar")
    archive = write_rar(tmp_path / "a.rar", rar4([Entry("x.avi", b"/etc/passwd", LINK)]))
    listed = entries(write_rar(tmp_path / "b.rar", rar4([Entry("x.avi", b"/etc/passwd")])))
    monkeypatch.setattr(archives_rar, "entries", lambda _: listed)  # headers that lie
    with pytest.raises(HostileArchive, match="is a link"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs("unar")
def test_rars_that_give_one_file_twice_are_refused(tmp_path: Path) -> None:
    inner = {f"{name}.rar": rar5(entries_of({"a.avi": name.encode()})) for name in ("one", "two")}
    archive = write_rar(tmp_path / "a.rar", rar5(entries_of(inner)))
    with pytest.raises(HostileArchive, match=r"two\.rar: 'a\.avi' occurs twice"):
        unpack(archive, tmp_path / "out")
    twice = write_rar(tmp_path / "b.rar", rar5([Entry("a.avi", b"1"), Entry("a.avi", b"2")]))
    with pytest.raises(InputError, match="1 of 2 files came out"):
        unpack(twice, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: content[:10] + b"\x80" + content[11:], "encrypted"),
        (lambda content: content[:10] + b"\x01" + content[11:], "one volume of several"),
    ],
)
def test_what_no_publisher_does_is_told_apart(tmp_path: Path, change: object, match: str) -> None:
    archive = write_rar(tmp_path / "a.rar", change(rar4(entries_of(FILES))))  # type: ignore[operator]
    with pytest.raises(InputError, match=match):
        entries(archive)


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    archive = write_rar(tmp_path / "a.rar", rar5(entries_of(FILES)))
    with pytest.raises(InputError, match="sudo apt-get install unar libarchive-tools"):
        unpack(archive, tmp_path / "out")


@needs("bsdtar")
def test_the_tool_that_could_help_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bsdtar = shutil.which("bsdtar")
    assert bsdtar
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bsdtar").symlink_to(bsdtar)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    archive = write_rar(tmp_path / "a.rar", rar4(entries_of(FILES), solid=True))
    with pytest.raises(InputError, match=r"bsdtar: .*\. Cure: sudo apt-get install unar$"):
        unpack(archive, tmp_path / "out")


def test_a_tool_ends_with_the_process_that_needs_it(tmp_path: Path) -> None:
    """kill -9 of the stage: nothing goes on writing, and the next attempt removes what was left."""
    install(tmp_path / "bin", {"unar": f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 100\n"})
    archive = write_rar(tmp_path / "a.rar", rar5(entries_of(FILES)))
    code = "import sys; from pathlib import Path; from pipeline.data.archives.unpack import unpack\n"
    code += "unpack(*map(Path, sys.argv[1:]))"
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    process = subprocess.Popen([sys.executable, "-c", code, str(archive), str(tmp_path / "out")], env=environment)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    tool = int((tmp_path / "pid").read_text())
    while lives(tool):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [path.name for path in tmp_path.glob(".out.tmp")]
