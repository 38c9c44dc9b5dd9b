from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.annotations import read, summary
from pipeline.data.annotations.oscc import read_windows
from pipeline.data.annotations.own import from_folders, from_table, split_by_hash
from pipeline.errors import InputError


def test_ucf101_has_the_published_counts(shared_dir: Path) -> None:
    result = summary("ucf101", shared_dir / "annotations")
    assert (result["classes"], result["videos"]) == (101, 13_320)
    assert result["splits"] == {
        "1": {"test": 3783, "train": 9537},
        "2": {"test": 3734, "train": 9586},
        "3": {"test": 3696, "train": 9624},
    }
    assert result["as_published"]
    assert result["problems"] == []


def test_hmdb51_has_the_published_counts(shared_dir: Path) -> None:
    result = summary("hmdb51", shared_dir / "annotations")
    assert (result["classes"], result["videos"]) == (51, 6766)
    assert result["splits"] == {str(split): {"test": 1530, "train": 3570, "unused": 1666} for split in (1, 2, 3)}
    assert result["as_published"]
    assert result["problems"] == []
    videos = read("hmdb51", shared_dir / "annotations").videos
    assert sum(any(sign in video.path for sign in "!()#&;[]+~@") for video in videos) == 536


def test_ucf101_takes_the_class_from_the_folder(shared_dir: Path) -> None:
    videos = read("ucf101", shared_dir / "annotations").videos
    push_ups = [video for video in videos if "HandStandPushups" in video.video_id]
    assert len(push_ups) == 128
    assert {video.label_name for video in push_ups} == {"HandstandPushups"}


def ucf(folder: Path, **changes: str) -> Path:
    files = {"classInd.txt": "1 Archery\r\n2 HandstandPushups\r\n"}
    for split in ("01", "02", "03"):
        files[f"trainlist{split}.txt"] = "Archery/v_Archery_g08_c01.avi 1\r\n"
        files[f"testlist{split}.txt"] = "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n"
    for name, text in (files | changes).items():
        (folder / name).write_text(text, newline="")
    return folder


def test_a_ucf101_label_that_contradicts_its_folder_is_a_problem(tmp_path: Path) -> None:
    result = read("ucf101", ucf(tmp_path, **{"trainlist02.txt": "Archery/v_Archery_g08_c01.avi 2\r\n"}))
    assert result.problems == ["trainlist02.txt: Archery/v_Archery_g08_c01.avi has label 2, its folder is class 1"]
    assert {video.label for video in result.videos} == {0, 1}


def test_a_ucf101_video_in_both_roles_is_a_problem(tmp_path: Path) -> None:
    result = read("ucf101", ucf(tmp_path, **{"testlist01.txt": "Archery/v_Archery_g08_c01.avi\r\n"}))
    assert "Archery/v_Archery_g08_c01.avi is listed twice in split 1" in result.problems


def test_missing_lists_and_unknown_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no classInd\.txt"):
        read("ucf101", tmp_path)
    ucf(tmp_path, **{"trainlist03.txt": "Bowling/v_Bowling_g08_c01.avi 3\r\n"})
    with pytest.raises(InputError, match="Bowling"):
        read("ucf101", tmp_path)
    (tmp_path / "testlist02.txt").unlink()
    with pytest.raises(InputError, match=r"testlist02\.txt is missing"):
        read("ucf101", tmp_path)
    with pytest.raises(InputError, match="one of ucf101"):
        read("imagenet", tmp_path)


def hmdb(folder: Path) -> Path:
    for split in (1, 2, 3):
        lines = [f"clip {n} #(a)&[b];+~@!.avi {1 if n < 70 else 2 if n < 100 else 0} \n" for n in range(102)]
        (folder / f"brush_hair_test_split{split}.txt").write_text("".join(lines))
    return folder


def test_hmdb51_names_may_hold_blanks_and_signs(tmp_path: Path) -> None:
    result = read("hmdb51", hmdb(tmp_path))
    assert result.counts()["3"] == {"test": 30, "train": 70, "unused": 2}
    assert result.videos[0].path == "brush_hair/clip 0 #(a)&[b];+~@!.avi"
    assert result.problems == []
    (tmp_path / "brush_hair_test_split2.txt").write_text("clip.avi 3\n")
    with pytest.raises(InputError, match="flag 0, 1 or 2"):
        read("hmdb51", tmp_path)


def k400(folder: Path) -> Path:
    head = "label,youtube_id,time_start,time_end,split\n"
    (folder / "train.csv").write_text(
        head
        + "petting animal (not cat),---QUuC4vJs,84,94,train\n"
        + '"""massaging person\'s head""",-0aBcDeFgHi,0,10,train\n'
        + '"playing, drums",abcdefghijk,100,110,train\n'
    )
    (folder / "val.csv").write_text(head + '"petting animal (not cat)",--33Lscn6sk,4,14,val\n')
    (folder / "test.csv").write_text("youtube_id,time_start,time_end,split\nzzzzzzzzzzz,5,15,test\n")
    return folder


def test_kinetics_reads_quoted_labels_and_unlabelled_tests(tmp_path: Path) -> None:
    result = read("k400", k400(tmp_path))
    assert result.classes == ["massaging person's head", "petting animal (not cat)", "playing, drums"]
    assert [video.path for video in result.videos] == [
        "---QUuC4vJs_000084_000094.mp4",
        "-0aBcDeFgHi_000000_000010.mp4",
        "abcdefghijk_000100_000110.mp4",
        "--33Lscn6sk_000004_000014.mp4",
        "zzzzzzzzzzz_000005_000015.mp4",
    ]
    assert [video.label for video in result.videos] == [1, 0, 2, 1, -1]
    assert result.counts() == {"1": {"test": 1, "train": 3, "val": 1}}
    assert result.notes == {"labels_with_extra_quotes": 1}


def test_kinetics_rows_in_two_splits_are_a_problem(tmp_path: Path) -> None:
    k400(tmp_path)
    (tmp_path / "test.csv").unlink()
    with (tmp_path / "val.csv").open("a") as file:
        file.write("x,abcdefghijk,100,110,val\n")
    problems = read("k400", tmp_path).problems
    assert any("test.csv is missing" in problem for problem in problems)
    assert any("abcdefghijk_000100_000110.mp4 is listed twice" in problem for problem in problems)


def ssv2(folder: Path, newer: bool) -> Path:
    place = folder / "labels" if newer else folder
    place.mkdir(exist_ok=True)
    prefix = "" if newer else "something-something-v2-"
    lists: dict[str, Any] = {
        "labels": {"Holding something next to something": "1", "Approaching something": "0"},
        "train": [
            {
                "id": "78687",
                "label": "holding potato next to bottle",
                "template": "Holding [something] next to [something]",
            }
        ],
        "validation": [{"id": "74225", "label": "x", "template": "Approaching [something]"}],
        "test": [{"id": "1420"}],
    }
    for name, content in lists.items():
        (place / f"{prefix}{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("newer", [False, True])
def test_something_something_is_read_under_both_names(tmp_path: Path, newer: bool) -> None:
    result = read("ssv2", ssv2(tmp_path, newer))
    assert result.classes == ["Approaching something", "Holding something next to something"]
    assert [(video.video_id, video.path, video.label, video.splits) for video in result.videos] == [
        ("78687", "78687.webm", 1, ("train",)),
        ("74225", "74225.webm", 0, ("val",)),
        ("1420", "1420.webm", -1, ("test",)),
    ]


def test_a_template_without_a_label_is_named(tmp_path: Path) -> None:
    ssv2(tmp_path, newer=True)
    (tmp_path / "labels/train.json").write_text(json.dumps([{"id": "7", "template": "Dancing [something]"}]))
    with pytest.raises(InputError, match=r"video 7 has the template 'Dancing \[something\]'"):
        read("ssv2", tmp_path)


def clip(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "clip_uid": None,
        "unique_id": name,
        "video_uid": "v1",
        "parent_start_sec": 10.0,
        "parent_end_sec": 18.0,
        "parent_start_frame": 300,
        "parent_end_frame": 540,
    } | fields


def oscc(folder: Path) -> Path:
    lists = {
        "fho_oscc-pnr_train.json": [
            clip("a", state_change=True, parent_pnr_frame=400),
            clip("b", state_change=False),
            clip("c", parent_end_frame=515, parent_end_sec=17.1667),
        ],
        "fho_oscc-pnr_val.json": [clip("d", state_change=True)],
        "fho_oscc-pnr_test_unannotated.json": [clip("e")],
    }
    for name, clips in lists.items():
        (folder / name).write_text(json.dumps({"version": "v1", "clips": clips}))
    return folder


def test_oscc_windows_keep_their_odd_lengths_and_missing_fields_are_counted(tmp_path: Path) -> None:
    result, windows = read_windows(oscc(tmp_path))
    assert [(video.video_id, video.label, video.splits[0]) for video in result.videos] == [
        ("a", 1, "train"),
        ("b", 0, "train"),
        ("c", 0, "train"),
        ("d", 1, "val"),
        ("e", -1, "test"),
    ]
    assert [window.end_frame - window.start_frame for window in windows] == [240, 240, 215, 240, 240]
    assert result.notes == {
        "state_change_missing": 1,
        "windows_not_8_seconds": 1,
        "seconds_and_frames_disagree": 0,
    }


@pytest.mark.parametrize(
    "fields", [{"parent_end_frame": 300}, {"unique_id": "../x"}, {"video_uid": None, "unique_id": ""}]
)
def test_an_impossible_window_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "fho_oscc-pnr_train.json").write_text(json.dumps({"clips": [clip("a", **fields)]}))
    with pytest.raises(InputError, match="fetch it again"):
        read("oscc", tmp_path)


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "fho_oscc-pnr_train.json").write_text('{"clips": [')
    with pytest.raises(InputError, match="not valid JSON"):
        read("oscc", tmp_path)


WRONG: list[tuple[str, dict[str, bytes], str]] = [
    ("k400", {"train.csv": "label,youtube_id,time_start,time_end\ndéjà,abc,0,10\n".encode("latin-1")}, "train.csv is"),
    ("k400", {"train.csv": "label,youtube_id,time_start,time_end\nrun,abc,0,10\n".encode("utf-16")}, "train.csv is"),
    ("k400", {"train.csv": b"label,youtube_id,time_start,time_end\nrun,abc,0,inf\n"}, "line 2: times '0', 'inf'"),
    ("ssv2", {"labels.json": b'["a", "b"]'}, "is not of the publisher's form"),
    ("ssv2", {"labels.json": b'{"a": "x"}'}, "is not of the publisher's form"),
    ("ssv2", {"labels.json": b'{"a": "0"}', "train.json": b'{"a": 1}'}, "is not of the publisher's form"),
    ("ssv2", {"labels.json": b'{"a": "0"}', "train.json": b'[{"template": "[a]"}]'}, "KeyError: 'id'"),
    ("ucf101", {"classInd.txt": b"Archery\nBowling\n"}, "classInd.txt is"),
    ("ucf101", {"classInd.txt": b"Archery 1\n"}, "classInd.txt is"),
    ("ucf101", {"classInd.txt": b"1 Archery\n", "trainlist01.txt": b"\xe9/v.avi 1\n"}, "trainlist01.txt is"),
    ("oscc", {"fho_oscc-pnr_train.json": b'{"clips": ["a"]}'}, "is not of the publisher's form"),
]


@pytest.mark.parametrize(("benchmark", "files", "message"), WRONG)
def test_annotations_of_another_form_are_named_with_a_cure(
    tmp_path: Path, benchmark: str, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{tmp_path}.*{message}.* Cure: "):
        read(benchmark, tmp_path)


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def test_your_folders_are_classes_below_splits(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/cat's/a 1.mp4",
        "train/dog/b.avi",
        "Validation/dog/c.mp4",
        "test/cat's/d.mkv",
        "test/cat's/x.txt",
    )
    listing = from_folders(tmp_path)
    assert listing.classes == ["cat's", "dog"]
    assert [(video.path, video.splits[0], video.label) for video in listing.videos] == [
        ("Validation/dog/c.mp4", "val", 1),
        ("test/cat's/d.mkv", "test", 0),
        ("train/cat's/a 1.mp4", "train", 0),
        ("train/dog/b.avi", "train", 1),
    ]
    assert listing.problems == ["1 files without a video's suffix were passed over"]


def test_your_folders_without_splits_are_split_by_hash(tmp_path: Path) -> None:
    touch(tmp_path, *(f"class{number % 2}/{number}.mp4" for number in range(400)))
    (tmp_path / "class_empty").mkdir()
    listing = from_folders(tmp_path)
    shares = [sum(video.splits[0] == split for video in listing.videos) / 400 for split in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.06)
    assert all(video.splits[0] == split_by_hash(video.path) for video in listing.videos)
    assert "class 'class_empty' has no video at all" in listing.problems


@pytest.mark.parametrize("extra", ["extra/x.mp4", "dev/cat/x.mp4"])
def test_a_folder_beside_splits_does_not_make_classes_of_them(tmp_path: Path, extra: str) -> None:
    touch(tmp_path, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4", extra)
    name = extra.split("/")[0]
    with pytest.raises(InputError, match=rf"train, val hold folders of classes .* lie {name}, .* Cure: move them away"):
        from_folders(tmp_path)


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "test/a.mp4", "walk/b.mp4", "walk/evening/c.mp4")
    assert from_folders(tmp_path).classes == ["test", "walk"]


def test_a_name_in_two_splits_and_a_class_without_training_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/x.mp4", "test/a/x.mp4", "test/b/y.mp4")
    problems = from_folders(tmp_path).problems
    assert "class 'b' has no training video" in problems
    assert any("more than one split (leak?)" in problem and "'x.mp4'" in problem for problem in problems)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_your_table_names_videos_labels_and_splits(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "a, b.mp4", "c.mp4")
    rows = [
        {"path": "a, b.mp4", "label": "zebra", "split": "train"},
        {"path": "c.mp4", "label": "ant", "split": "validation"},
        {"path": "gone.mp4", "label": "ant", "split": "test"},
    ]
    table = tmp_path / f"table.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        table.write_text('path,label,split\n"a, b.mp4",zebra,train\nc.mp4,ant,validation\ngone.mp4,ant,test\n')
    listing = from_table(table, tmp_path)
    assert listing.classes == ["ant", "zebra"]
    assert [(v.path, v.label, v.splits[0]) for v in listing.videos] == [
        ("a, b.mp4", 1, "train"),
        ("c.mp4", 0, "val"),
        ("gone.mp4", 0, "test"),
    ]
    assert any(problem.startswith("1 of 3 listed files are not in") for problem in listing.problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,1\n", "lacks the column path"),
        ("path,label\n../a.mp4,1\n", "without '..'"),
        ("path,label\n/a.mp4,1\n", "relative to the videos' folder"),
        ("path,label,split\na.mp4,1,tset\n", "split = 'tset'"),
        ("path,label\na.mp4,1\nb.mp4,cat\n", "mixes numbers and names"),
        ("path,label\na.mp4,1\na.mp4,1\n", "more than once"),
    ],
)
def test_a_faulty_table_is_refused_with_its_row_or_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        from_table(tmp_path / "table.csv", tmp_path)
