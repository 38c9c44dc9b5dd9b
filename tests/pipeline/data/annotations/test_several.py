"""Tables whose labels name several classes, `a|b`: read, and refused where they cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.annotations.own import from_folders, from_table
from pipeline.errors import InputError


def table(folder: Path, *rows: str, head: str = "path,label") -> Path:
    path = folder / "videos.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_label_with_bars_names_several_classes_and_order_and_blanks_do_not_count(tmp_path: Path) -> None:
    listing = from_table(table(tmp_path, "a.mp4,run | jump", "b.mp4,jump", "c.mp4,jump|run", "d.mp4,"), tmp_path)
    assert listing.multi_label
    assert listing.classes == ["jump", "run"]
    assert [video.labels for video in listing.videos] == [(0, 1), (0,), (0, 1), ()]
    assert [video.label for video in listing.videos] == [0, 0, 0, -1]
    assert [video.label_name for video in listing.videos] == ["jump|run", "jump", "jump|run", ""]


def test_classes_by_number_have_their_names_in_the_same_order(tmp_path: Path) -> None:
    path = table(tmp_path, "a.mp4,2|0,walk|run", "b.mp4,1,jump", head="path,label,label_name")
    listing = from_table(path, tmp_path)
    assert listing.classes == ["run", "jump", "walk"]
    assert [(video.labels, video.label_name) for video in listing.videos] == [((0, 2), "run|walk"), ((1,), "jump")]


def test_a_table_of_one_class_each_is_what_it_was(tmp_path: Path) -> None:
    listing = from_table(table(tmp_path, "a.mp4,run", "b.mp4,jump"), tmp_path)
    assert not listing.multi_label
    assert [(video.label, video.labels, video.label_name) for video in listing.videos] == [
        (1, (), "run"),
        (0, (), "jump"),
    ]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("run||jump", "row 2: label = 'run||jump' has an empty class"),
        ("|run", "row 2: label = '|run' has an empty class"),
        ("run|", "row 2: label = 'run|' has an empty class"),
        ("run|run", "row 2: label = 'run|run' names 'run' twice"),
        ("1|01", "row 2: label = '1|01' names '1' twice"),
        ("run|3", "mixes numbers and names"),
        ("run|-1", "label = '-1'"),
        ("run|Run", "differ only by case"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_row(tmp_path: Path, label: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        from_table(table(tmp_path, f"a.mp4,{label}", "b.mp4,jump"), tmp_path)
    assert said in str(error.value)
    assert "Cure:" in str(error.value)


def test_numbers_without_as_many_names_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "a.mp4,0|1,run", head="path,label,label_name")
    with pytest.raises(InputError, match="expected 2 names"):
        from_table(path, tmp_path)


def test_a_bar_in_a_folders_name_is_refused_as_it_would_read_as_two_classes(tmp_path: Path) -> None:
    for name in ("run|jump", "walk"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").touch()
    with pytest.raises(InputError, match=r"class folder 'run\|jump' holds a \|.*Cure: rename it"):
        from_folders(tmp_path)
