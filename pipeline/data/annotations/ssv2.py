"""Something-Something v2: 174 templates; JSON lists under an older and a newer set of names.

A video's class is its template without brackets. Ids are strings; test videos carry no label.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, cast

from pipeline.data.annotations.base import ListedVideo, Listing, find_folder, read_json
from pipeline.errors import InputError

OLD_PREFIX = "something-something-v2-"
CURE = "name the folder with something-something-v2-labels.json (or the newer labels/labels.json) and its lists."
LISTS = {"train": "train", "validation": "val", "test": "test"}


class Entry(TypedDict, total=False):
    """A video in a list."""

    id: str
    template: str


def read(root: Path) -> Listing:
    """Parse the lists below `root`; a list that is absent is named among the problems.

    Raises:
        InputError: the labels are missing, or a template is not among them.
    """
    folder = find_folder(
        root, lambda names: f"{OLD_PREFIX}labels.json" in names or "labels.json" in names, "labels.json", CURE
    )
    prefix = OLD_PREFIX if (folder / f"{OLD_PREFIX}labels.json").is_file() else ""
    labels = cast(dict[str, str], read_json(folder / f"{prefix}labels.json"))
    numbers = {name: int(value) for name, value in labels.items()}
    classes = [name for name, _ in sorted(numbers.items(), key=lambda item: item[1])]
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise InputError(f"{folder / f'{prefix}labels.json'}: labels are not 0, 1, 2, ... Cure: fetch it again.")
    problems: list[str] = []
    videos: dict[str, ListedVideo] = {}
    for name, split in LISTS.items():
        path = folder / f"{prefix}{name}.json"
        if not path.is_file():
            problems.append(f"{path.name} is missing: no {split} videos")
            continue
        for entry in cast(list[Entry], read_json(path)):
            video_id = str(entry["id"])
            label = -1 if split == "test" else _label(entry, numbers, path)
            if video_id in videos:
                problems.append(f"video {video_id} is listed twice: {videos[video_id].splits[0]} and {split}")
                continue
            label_name = classes[label] if label >= 0 else ""
            videos[video_id] = ListedVideo(video_id, f"{video_id}.webm", (split,), label, label_name)
    return Listing(classes, list(videos.values()), problems)


def _label(entry: Entry, numbers: dict[str, int], path: Path) -> int:
    template = str(entry.get("template", "")).replace("[", "").replace("]", "")
    if template not in numbers:
        raise InputError(
            f"{path}: video {entry['id']} has the template {entry.get('template')!r}, which is no class of the labels' "
            "file. Cure: take both files from the same release."
        )
    return numbers[template]
