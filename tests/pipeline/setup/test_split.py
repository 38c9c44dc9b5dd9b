"""`everest init`, second part: groups of videos, and a split that parts none of them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.errors import InputError
from pipeline.setup.groups import group, source_of_name
from pipeline.setup.look import OwnVideo
from pipeline.setup.split import split


def video(path: str, label: str = "a", given: str = "", of: str = "") -> OwnVideo:
    return OwnVideo(path, 0, label, given, of, 40, 25.0, 240, hashlib.sha256(path.encode()).hexdigest())


def ucf(classes: int = 3, groups: int = 10, clips: int = 4) -> list[OwnVideo]:
    return [
        video(f"c{c}/v_C{c}_g{g:02d}_c{n:02d}.avi", f"c{c}")
        for c in range(classes)
        for g in range(groups)
        for n in range(clips)
    ]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Run/v_Run_g01_c02.avi", "v_Run_g01"),
        ("a/-3B32lodo2M_000059_000069.mp4", "-3B32lodo2M"),
        ("a/film_12.5s_17s.mp4", "film"),
        ("a/My film - part 2.mov", "My film"),
        ("a/tape7_clip003.mp4", "tape7"),
        ("a/jump_17.mp4", None),
        ("a/17.mp4", None),
        ("a/sonic10.mp4", None),
    ],
)
def test_the_source_of_a_cut_is_read_from_its_name(name: str, source: str | None) -> None:
    assert source_of_name(name) == source


def test_clips_of_one_source_stay_on_one_side_and_each_class_gets_its_shares() -> None:
    videos = ucf()
    groups = group(videos, [])
    assert (groups.count(), groups.joined) == (30, {"names": 120})
    result = split(videos, groups)
    sides = {(groups.of[v.path], result.of[v.path]) for v in videos}
    assert len(sides) == 30
    for name, expected in (("train", 28), ("test", 8), ("val", 4)):
        assert result.counts(videos)[name] == Counter({f"c{c}": expected for c in range(3)})
    assert result.remarks == []


def test_the_split_is_of_the_bytes_and_not_of_names_or_order() -> None:
    videos = [replace(v, path=f"{v.label}/x{n}.mp4") for n, v in enumerate(ucf(clips=1))]
    one = split(videos, group(videos, []))
    shuffled = [replace(v, path=v.path.replace("x", "other")) for v in videos]
    random.Random(1).shuffle(shuffled)
    again = split(shuffled, group(shuffled, []))
    assert {path.replace("x", "other"): name for path, name in one.of.items()} == again.of


def test_numbers_alone_make_no_source_and_similar_pictures_join() -> None:
    videos = [video(f"a/walk_clip{n}.mp4") for n in range(9)] + [video(f"b/{n}.mp4", "b") for n in range(9)]
    groups = group(videos, [["a/walk_clip0.mp4", "b/3.mp4"]])
    assert (groups.count(), groups.joined, groups.shared()) == (17, {"pictures": 2}, 1)
    assert len({split(videos, groups).of[path] for path in ("a/walk_clip0.mp4", "b/3.mp4")}) == 1


def test_the_column_group_comes_before_names_and_pictures() -> None:
    videos = [replace(v, group=f"person {n % 6}") for n, v in enumerate(ucf(2, 6, 2))]
    groups = group(videos, [[videos[0].path, videos[1].path]])
    assert (groups.count(), groups.joined) == (6, {"column group": 24})


@pytest.mark.parametrize(("each", "expected"), [(2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (10, (7, 2, 1))])
def test_small_classes_are_trained_on_then_tested_then_validated(each: int, expected: tuple[int, int, int]) -> None:
    videos = [video(f"{label}/{n}.mp4", label) for label in "ab" for n in range(each)]
    result = split(videos, group(videos, []))
    counts = result.counts(videos)
    assert tuple(counts[name]["a"] for name in ("train", "test", "val")) == expected
    sentences = ["Classes without a validation video, for want of groups: 2 of 2 (a, b)."] if each == 2 else []
    assert result.remarks == sentences


def test_a_given_split_is_kept_and_one_without_training_videos_refused() -> None:
    videos = [video(f"{label}/{n}.mp4", label, given) for label in "ab" for n, given in enumerate(("train", "test"))]
    result = split(videos, group(videos, [["a/0.mp4", "a/1.mp4"]]))
    assert [result.of[v.path] for v in videos] == ["train", "test"] * 2
    assert "Groups on both sides of the split that is given: 1." in result.remarks[0]
    absent = [replace(v, split="test") if v.label == "b" else v for v in videos]
    with pytest.raises(InputError, match="1 of 2 classes have no training video in the split that is given: b"):
        split(absent, group(absent, []))


def test_one_unused_clip_takes_nothing_else_of_its_group_out_and_no_part_in_the_shares() -> None:
    videos = [
        video(f"{label}/{source}_{n}.mp4", label, "unused" if n == 0 and source < 6 else "", f"{label}{source}")
        for label in "ab"
        for source in range(10)
        for n in range(5)
    ]
    result = split(videos, group(videos, []))
    assert {v.path for v in videos if result.of[v.path] == "unused"} == {v.path for v in videos if v.split}
    sides = {(v.group, result.of[v.path]) for v in videos if not v.split}
    assert len(sides) == 20
    whole = split([v for v in videos if not v.split], group([v for v in videos if not v.split], []))
    assert whole.of == {v.path: result.of[v.path] for v in videos if not v.split}


def test_one_video_of_each_class_leaves_nothing_to_test_on() -> None:
    videos = [video("a/1.mp4"), video("b/1.mp4", "b")]
    with pytest.raises(InputError, match="nothing is left to test on"):
        split(videos, group(videos, []))


def test_a_given_split_of_training_alone_is_said_to_have_no_test() -> None:
    videos = [video(f"{label}/{n}.mp4", label, "train") for label in "ab" for n in range(5)]
    with pytest.raises(InputError, match="the split that is given has neither test nor val videos.* Cure: mark some"):
        split(videos, group(videos, []))


def test_videos_without_a_class_are_trained_on() -> None:
    videos = [*ucf(2, 3, 1), video("plain.mp4", "")]
    assert split(videos, group(videos, [])).of["plain.mp4"] == "train"
