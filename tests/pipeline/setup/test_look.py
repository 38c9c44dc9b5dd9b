"""`everest init`, first part: what it finds out about a set, and what it says is wrong with it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import sample_videos

from pipeline.audit.changes import frame_step
from pipeline.data.annotations.own import from_table
from pipeline.data.video import write_video
from pipeline.errors import InputError
from pipeline.setup.files import write
from pipeline.setup.groups import group
from pipeline.setup.look import look
from pipeline.setup.split import split
from pipeline.setup.warnings import warnings

pytestmark = pytest.mark.usefixtures("elsewhere")


def said(folder: Path, whole: bool = False) -> str:
    videos = replace(look(folder, sample_videos.RULES), whole=whole)
    groups = group(videos.videos, videos.similar())
    return "\n".join(warnings(videos, groups, split(videos.videos, groups), frame_step(25.0, 32)))


def test_each_fault_of_a_set_is_said_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(13):
        sample_videos.write(folder / "run" / f"{number}.mp4", 32, seed=number)
    for number in range(2):
        write_video(folder / "walk" / f"{number}.mp4", sample_videos.moving(24, 200, 200, seed=40 + number), fps=50)
    (folder / "walk" / "again.mp4").write_bytes((folder / "walk" / "0.mp4").read_bytes())
    (folder / "walk" / "both.mp4").write_bytes((folder / "run" / "0.mp4").read_bytes())
    (folder / "gone").mkdir()
    (folder / "gone" / "empty.mp4").touch()
    (folder / "walk" / "text.mp4").write_text("no video")
    text = said(folder)
    assert "Videos left out: 5 of 19 (2 two classes, 1 empty, 1 duplicate, 1 not a video)." in text
    assert "Classes left out, since none of their videos can be used: gone." in text
    assert "Classes with fewer than 10 videos: 1 of 2 (walk: 2)." in text
    assert "run has 12 videos, walk has 2. A model that always says run is right in 86%" in text
    assert "Videos shorter than a clip of 16 frames, 2 apart (1.2 s): 2 of 14." in text
    assert "Frame rates are mixed (25 to 50 a second, median 25)" in text
    assert "clips of 2 videos" in text
    assert "the short side is 64 to 200 pixels" in text
    whole = said(folder, whole=True)  # whose clips show all of each video, at any length and rate
    assert "frames are" not in whole
    assert "shorter than a clip" not in whole


def test_a_table_gives_labels_splits_and_groups_and_bad_rows_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(4):
        sample_videos.write(folder / f"{number}.mp4", 20, seed=number)
    table = folder / "list.csv"
    table.write_text("path,label,split,group\n0.mp4,a,train,x\n1.mp4,b,,x\n2.mp4,b,test,\n3.mp4,,,\n")
    videos = look(table, sample_videos.RULES)
    assert [(video.label, video.split, video.group) for video in videos.videos] == [
        ("a", "train", "x"), ("b", "", "x"), ("b", "test", ""), ("", "", ""),
    ]  # fmt: skip
    assert videos.classes() == {"a": 1, "b": 2}
    table.write_text("path,label\n0.mp4,a\n1.mp4,b,c\n")
    with pytest.raises(InputError, match="row 3: 3 fields"):
        look(table, sample_videos.RULES)
    table.write_text("path,label\n0.mp4,a\n../1.mp4,b\n")
    with pytest.raises(InputError, match="row 3: path = '../1.mp4'"):
        look(table, sample_videos.RULES)


def test_group_and_video_0_of_a_parquet_table_are_ones_like_any_other(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"path": f"{n}.mp4", "label": "ab"[n % 2], "group": n // 2, "video_id": n} for n in range(4)]
    for row in rows:
        sample_videos.write(tmp_path / "set" / str(row["path"]), 20, seed=int(str(row["video_id"])))
    table = tmp_path / "set" / "list.parquet"
    pq.write_table(pa.Table.from_pylist([*rows[:3], rows[3] | {"group": None}]), table)
    assert [video.group for video in look(table, sample_videos.RULES).videos] == ["0", "0", "1", ""]
    assert [video.video_id for video in from_table(table, table.parent).videos] == ["0", "1", "2", "3"]


def test_videos_are_looked_for_beside_a_link_to_a_table_and_left_out_ones_are_listed_for_the_last_call_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "set"
    for number in range(4):
        sample_videos.write(folder / f"{number}.mp4", 20, seed=number)
    (folder / "empty.mp4").touch()
    real = tmp_path / "lists.csv"
    (folder / "list.csv").symlink_to(real)
    rows = "path,label\n0.mp4,a\n1.mp4,b\n2.mp4,b\n3.mp4,a\n"
    kept = []
    for more in ("empty.mp4,a\n", ""):
        real.write_text(rows + more)
        videos = look(folder / "list.csv", sample_videos.RULES)
        assert (videos.folder, len(videos.videos)) == (folder, 4)
        told = write(videos, Path("annotations/list-1.csv"), "", "", "list")
        kept.append((told, Path("annotations/list-left-out.csv").exists()))
    assert kept == [("annotations/list-left-out.csv", True), (None, False)]


def test_sets_that_nothing_can_be_learnt_from_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(InputError, match="does not exist"):
        look(folder, sample_videos.RULES)
    folder.mkdir()
    with pytest.raises(InputError, match="holds no video"):
        look(folder, sample_videos.RULES)
    sample_videos.write(folder / "a.mp4")
    with pytest.raises(InputError, match="1 video in no class's folder"):
        look(folder, sample_videos.RULES)
    sample_videos.write(folder / "one" / "a.mp4")
    with pytest.raises(InputError, match="lists one class, 'one'"):
        look(folder, sample_videos.RULES)
    (folder / "two").mkdir()
    (folder / "two" / "b.mp4").touch()
    with pytest.raises(InputError, match="has usable videos of one class, 'one'"):
        look(folder, sample_videos.RULES)


def test_a_video_that_stands_for_its_copy_without_a_class_keeps_the_copys_near_duplicates(tmp_path: Path) -> None:
    first = sample_videos.write(tmp_path / "all-0.mp4", 40, seed=0)
    (tmp_path / "run-0.mp4").write_bytes(first.read_bytes())
    sample_videos.write(tmp_path / "run-0 again.mp4", 40, seed=0, crf=23)
    sample_videos.write(tmp_path / "walk-1.mp4", 40, seed=1)
    table = tmp_path / "list.csv"
    table.write_text("path,label\nall-0.mp4,\nrun-0.mp4,run\nrun-0 again.mp4,run\nwalk-1.mp4,walk\n")
    videos = look(table, sample_videos.RULES)
    assert [video.path for video in videos.left_out] == ["all-0.mp4"]
    assert [sorted(paths) for paths in videos.similar()] == [["run-0 again.mp4", "run-0.mp4"]]


def test_class_numbers_with_a_gap_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.mp4").touch()  # decoded, they would be refused as empty
    table = folder / "list.csv"
    table.write_text("path,label\n0.mp4,0\n1.mp4,1\n2.mp4,5\n")
    with pytest.raises(InputError, match=r"up to 5, and no video has 2, 3, 4\. Cure: number them from 0 to 2 without"):
        look(table, sample_videos.RULES)
    table.write_text("path,label\n0.mp4,0\n1.mp4,1\n2.mp4,2\n")
    with pytest.raises(InputError, match="none of the 3 videos"):
        look(table, sample_videos.RULES)


def test_a_class_whose_name_is_no_text_is_told_from_a_formula(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"run"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        (folder / "a.mp4").touch()
    with pytest.raises(InputError, match=r"class caf\\xe9 has a name that is no UTF-8 text.* Cure: rename it"):
        look(tmp_path, sample_videos.RULES)


def test_clips_get_fewer_frames_where_many_videos_are_short(tmp_path: Path) -> None:
    for number in range(4):
        sample_videos.write(tmp_path / "set" / "ab"[number % 2] / f"{number}.mp4", 10 if number else 40, seed=number)
    videos = look(tmp_path / "set", sample_videos.RULES)
    assert (videos.clip_frames, videos.min_frames, len(videos.videos)) == (8, 4, 4)
    sample_videos.write(tmp_path / "set" / "a" / "few.mp4", 5, seed=7)
    videos = look(tmp_path / "set", sample_videos.RULES)
    assert len(videos.videos) == 5  # whole videos may repeat frames in a clip
    text = said(tmp_path / "set", whole=True)
    assert "Videos of fewer frames than the 8 of a clip: 1 of 5. They repeat some in it." in text


def test_a_folder_beside_splits_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    for path in ("train/run/a.mp4", "train/walk/b.mp4", "unlabelled/c.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(InputError, match=r"lie unlabelled, which are no splits. Cure: move them away"):
        look(tmp_path, sample_videos.RULES)
