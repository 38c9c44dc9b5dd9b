"""How a folder of videos is listed: links, loops, hidden files, and what is no file; the same wherever one is named."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from pipeline.data.annotations.own import from_folders
from pipeline.data.video.listing import find_videos, refusal, video_files
from pipeline.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Links to a folder elsewhere, to itself and to one another, hidden ones, a linked file and a hard link."""
    touch(*(tmp_path / "pool" / name for name in ("a.mp4", "deep/b.MKV", "notes.txt", ".hidden.mp4", ".dir/c.mp4")))
    links = tmp_path / "links"
    touch(links / "run/d.mp4")
    (links / "walking").symlink_to(tmp_path / "pool")
    (links / "loop").symlink_to(".")
    (links / "run/up").symlink_to("..")
    (links / "run/same.mp4").symlink_to("d.mp4")
    (links / "run/dangling.mp4").symlink_to("absent")
    (links / "one.mp4").symlink_to("two.mp4")
    (links / "two.mp4").symlink_to("one.mp4")
    os.link(links / "run/d.mp4", links / "run/hard.mp4")
    return links


LISTED = ["one.mp4", "run/d.mp4", "run/dangling.mp4", "run/hard.mp4", "two.mp4", "walking/a.mp4", "walking/deep/b.MKV"]


def test_links_are_followed_and_every_file_comes_once(folder: Path) -> None:
    assert video_files(folder) == (LISTED, 1)
    assert find_videos([folder]) == [folder / name for name in LISTED]
    assert find_videos([folder / "walking"]) == [folder / "walking/a.mp4", folder / "walking/deep/b.MKV"]
    assert find_videos([folder.parent / "pool", folder / "walking/a.mp4", folder / "loop/run/d.mp4"]) == [
        folder.parent / "pool/a.mp4", folder.parent / "pool/deep/b.MKV", folder / "loop/run/d.mp4",
    ]  # fmt: skip


def test_classes_of_a_folder_are_found_through_links_without_loops(folder: Path) -> None:
    listing = from_folders(folder)
    assert listing.classes == ["run", "walking"]
    assert [video.path for video in listing.videos] == [name for name in LISTED if "/" in name]


def test_what_is_no_regular_file_is_listed_and_refused_by_name(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    assert "pipe.mp4" in video_files(folder)[0]
    for name, reason in (
        ("pipe.mp4", "not_a_file"),
        ("run/dangling.mp4", "not_a_file"),
        ("one.mp4", "unreadable"),
        ("absent.mp4", "missing"),
        (os.fsdecode(b"caf\xe9.mp4"), "bad_name"),
    ):
        refused = refusal(folder / name)
        assert refused is not None
        assert refused[0] == reason
    assert refusal(folder / "run/d.mp4") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_named(folder: Path) -> None:
    (folder / "run").chmod(0)
    with pytest.raises(InputError, match="run.*cannot be listed"):
        video_files(folder)


def test_nothing_else_searches_a_folder_for_videos(root: Path) -> None:
    users = []
    for path in sorted((root / "pipeline").rglob("*.py")):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        if "VIDEO_SUFFIXES" in names and path.name != "listing.py":
            users.append(path.name)
    assert users == ["audit.py", "ingest.py"]  # which name them in a message
