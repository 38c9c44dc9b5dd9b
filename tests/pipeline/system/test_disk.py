"""On a full disk the message names the file or folder that is full, and no part of a file is left."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.weights import save_state
from pipeline.evaluation.inference import Answer
from pipeline.inference import predict
from pipeline.inference.convert.huggingface import write_huggingface
from pipeline.inference.convert.official import write_official
from pipeline.pictures import draw as drawing
from pipeline.pictures.tokens import draw_kept
from pipeline.system.disk import DiskFullError, full_places, is_full, writing
from pipeline.system.files import write_text


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB with 8 KiB left."""
    folder = tmp_path / "full"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        (folder / "filler").write_bytes(b"x" * (48 << 10))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def answers(folder: Path, suffix: str) -> None:
    one = Answer(probability=np.random.default_rng(0).random(20_000), reason="")
    predict.write(folder / f"out{suffix}", [("a.mp4", one)], [str(n) for n in range(20_000)])


STATE = {"w": torch.randn(100_000)}
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "predict csv": ("out.csv", lambda folder: answers(folder, ".csv")),
    "predict json": ("out.json", lambda folder: answers(folder, ".json")),
    "predict parquet": ("out.parquet", lambda folder: answers(folder, ".parquet")),
    "show picture": ("a.png", lambda folder: drawing._save(noise(256), folder / "a.png")),
    "show animation": ("a.gif", lambda folder: drawing._save(noise(512), folder / "a.gif")),
    "convert to official": ("w.pth", lambda folder: write_official(STATE, folder / "w.pth")),
    "convert to Hugging Face": ("model.safetensors", lambda folder: write_huggingface(STATE, {}, folder)),
    "text": ("a.json", lambda folder: write_text(folder / "a.json", "x" * 100_000)),
    "kept tokens": (
        "k.png",
        lambda folder: draw_kept(np.asarray(noise(256))[None].repeat(16, 0), np.ones((8, 4, 4)), folder / "k.png"),
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_by_the_file_and_leaves_no_part_of_it(full: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    with pytest.raises(DiskFullError) as caught:
        write(full)
    assert str(caught.value).startswith(f"{full / name}: no space left on the disk")
    assert caught.value.exit_code == 1
    assert [path.name for path in full.iterdir()] == ["filler"]


def test_a_folder_of_weights_on_a_full_disk_is_named(full: Path) -> None:
    with pytest.raises(DiskFullError, match=f"^{full / 'model'}: no space"), writing(full / "model"):
        save_state(STATE, full / "model", {"architecture": "x", "kwargs": {}})
    assert list((full / "model").iterdir()) == []


def test_a_disk_without_room_for_another_file_is_full_too(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        (folder / "one").touch()
        with pytest.raises(DiskFullError, match=f"^{folder / 'two.json'}: no space"):
            write_text(folder / "two.json", "{}")
        assert folder in full_places([str(folder)])
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_command_line_names_the_full_folder_where_a_library_names_none(full: Path, tmp_path: Path) -> None:
    code = (
        "import errno; from pipeline import cli\n"
        "@cli.app.command('fill')\n"
        "def fill(out: str) -> None:\n"
        "    raise RuntimeError('x') from OSError(errno.ENOSPC, 'No space left on device')\n"
        "cli.main()"
    )
    (full / "more").write_bytes(b"x" * (16 << 10))
    target = str(full / "result.bin")
    done = subprocess.run(
        [sys.executable, "-c", code, "fill", target], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {target}: no space left on the disk")
    assert str(tmp_path) + ":" not in done.stderr


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_full(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"), writing(tmp_path / "a"):
        raise ValueError("bad")
    with pytest.raises(PermissionError), writing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
