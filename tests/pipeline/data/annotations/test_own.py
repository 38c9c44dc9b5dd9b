"""`everest annotations folder --root ...`: what a researcher's own table or folder is told before any video is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.data.annotations import summary
from pipeline.data.annotations.own import from_folders
from pipeline.errors import InputError

ROWS: list[dict[str, Any]] = [
    {"path": "one.mp4", "label": "cat", "split": "train"},
    {"path": 'say "hi", two.mp4', "label": "dog", "split": "Training"},
    {"path": "three.mp4", "label": "cat", "split": "valid"},
    {"path": "four.mp4", "label": None, "split": "test"},
]
LINES = [
    "path,label,split",
    "one.mp4,cat,train",
    '"say ""hi"", two.mp4",dog,Training',
    "three.mp4,cat,valid",
    "four.mp4,,test",
]
EXPECTED = {"classes": 2, "videos": 4, "without_label": 1, "splits": {"1": {"test": 1, "train": 2, "val": 1}}}


def table(folder: Path, content: bytes | str) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def videos(folder: Path) -> None:
    for row in ROWS:
        (folder / row["path"]).touch()


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    return folder / "table.parquet"


def asked(root: Path) -> dict[str, Any]:
    """What the command prints as JSON."""
    from pipeline.cli import app

    result = CliRunner().invoke(app, ["annotations", "folder", "--root", str(root), "--json"])
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    return record


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "BOM"])
def test_a_table_is_counted_the_same_however_a_spreadsheet_saved_it(tmp_path: Path, mark: str, end: str) -> None:
    videos(tmp_path)
    result = asked(table(tmp_path, mark + end.join([*LINES, "", ""])))
    assert {key: result[key] for key in EXPECTED} == EXPECTED
    assert (result["class_names"], result["problems"], result["published"]) == (["cat", "dog"], [], None)


def test_a_parquet_table_is_counted_as_the_same_rows_in_csv(tmp_path: Path) -> None:
    videos(tmp_path)
    assert asked(parquet(tmp_path, ROWS)) == asked(table(tmp_path, "\n".join(LINES)))


def test_a_folder_is_counted_as_a_table_of_its_files(tmp_path: Path) -> None:
    for path in ("train/cat/1.mp4", "train/dog/2.mp4", "val/cat/3.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    listed = table(
        tmp_path,
        "path,label,split\ntrain/cat/1.mp4,cat,train\ntrain/dog/2.mp4,dog,train\nval/cat/3.mp4,cat,val\n",
    )
    by_table = asked(listed)
    listed.unlink()
    assert asked(tmp_path) == by_table
    assert by_table["splits"] == {"1": {"train": 2, "val": 1}}


def test_no_two_videos_have_one_id_and_only_those_that_would_keep_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("a.mp4", "a.avi", "a.mp4.avi", "b.mp4", "b.mp4.avi"):
        (tmp_path / "c" / name).touch()
    listed = {video.path: video.video_id for video in from_folders(tmp_path).videos}
    assert listed == {
        "c/a.mp4": "c/a.mp4",
        "c/a.avi": "c/a.avi",
        "c/a.mp4.avi": "c/a.mp4.avi",
        "c/b.mp4": "c/b",
        "c/b.mp4.avi": "c/b.mp4",
    }


def test_listed_videos_that_are_missing_are_counted_and_no_error(tmp_path: Path) -> None:
    videos(tmp_path)
    (tmp_path / "one.mp4").unlink()
    result = asked(table(tmp_path, "\n".join(LINES)))
    assert result["videos"] == 4
    assert result["problems"] == [f"1 of 4 listed files are not in {tmp_path.name}"]


def test_class_numbers_take_their_names_from_label_name(tmp_path: Path) -> None:
    result = summary("folder", table(tmp_path, "path,label,label_name,split\na.mp4,1,dog,train\nb.mp4,0,cat,train\n"))
    assert result["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the column path, label; it has none"),
        ("path,label,split\n", "lists no video"),
        ("path;label\na.mp4;1\n", "it has 'path;label'.*comma-separated"),
        ("path, label\na.mp4,1\n", "lacks the column label; it has 'path', ' label'"),
        ("path,label,label\na.mp4,1,2\n", "column 'label' more than once"),
        ("path,label\na, b.mp4,cat\n", r"row 2: 3 fields, the first line names 2.*double quotes"),
        ("path,label,split\na.mp4,cat\n", "row 2: 2 fields, the first line names 3"),
        ('path,label\n"a.mp4,cat\nb.mp4,dog\n', "not a readable CSV file.*each double quote within a field doubled"),
        ("path,label\ncaf\xe9.mp4,1\n".encode("latin-1"), "not a readable CSV file in UTF-8"),
        ("path,label,split\n\n\na.mp4,cat,tset\n", "row 4: split = 'tset'. Cure: train, val, test or unused"),
        ("path,label\na.mp4,cat\n,cat\n", "row 3: path = ''"),
        ("path,label\n.,cat\n", r"row 2: path = '\.'. Cure: a path relative to the videos' folder"),
        ("path,label\na.mp4,-1\n", "row 2: label = '-1'. Cure: a class's name, its number from 0"),
        ("path,label\na.mp4,1.0\n", r"row 2: label = '1\.0'"),
        ("path,label\na.mp4,20240131\n", "row 2: label = '20240131'. Cure: .*from 0 to 99,999"),
    ],
)
def test_a_table_that_cannot_be_understood_names_the_row_and_the_cure(
    tmp_path: Path, content: bytes | str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        summary("folder", table(tmp_path, content))


def test_a_parquet_label_that_is_no_class_number_names_its_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 2: label = 1\.5"):
        summary("folder", parquet(tmp_path, [{"path": "a.mp4", "label": None}, {"path": "b.mp4", "label": 1.5}]))


def test_a_root_that_is_missing_or_holds_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist. Cure: name the videos' folder, or their CSV"):
        summary("folder", tmp_path / "nowhere.csv")
    (tmp_path / "stray.mp4").touch()
    with pytest.raises(InputError, match="holds no video. Cure: put them in a folder for each class"):
        summary("folder", tmp_path)


def test_one_class_number_with_two_names_is_refused(tmp_path: Path) -> None:
    rows = "path,label,label_name,split\na.mp4,1,dog,train\nb.mp4,0,cat,train\nc.mp4,1,cat,train\n"
    with pytest.raises(
        InputError, match=r"row 4: label 1 has label_name 'cat', an earlier row has 'dog'\. Cure: one name"
    ):
        summary("folder", table(tmp_path, rows))
