"""Something-Something v2: 174 templates; JSON lists under an older and a newer set of names.

A video's class is its template without brackets. Ids are strings; test videos carry no label.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.data.annotations.base import Annotated, Annotations, find_folder
from pipeline.errors import InputError

OLD_PREFIX = "something-something-v2-"
CURE = "name the folder with something-something-v2-labels.json (or the newer labels/labels.json) and its lists."
LISTS = {"train": "train", "validation": "val", "test": "test"}

#: Labels whose classes swap when a video is mirrored; every other class stays or has no mirror image.
MIRRORED = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}


def read(root: Path) -> Annotations:
    """Parse the lists below `root`; a list that is absent is named among the problems.

    Raises:
        InputError: the labels are missing, or a template is not among them.
    """
    folder = find_folder(
        root, lambda names: f"{OLD_PREFIX}labels.json" in names or "labels.json" in names, "labels.json", CURE
    )
    prefix = OLD_PREFIX if (folder / f"{OLD_PREFIX}labels.json").is_file() else ""
    numbers = {name: int(value) for name, value in _json(folder / f"{prefix}labels.json").items()}
    classes = [name for name, _ in sorted(numbers.items(), key=lambda item: item[1])]
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise InputError(f"{folder / f'{prefix}labels.json'}: labels are not 0, 1, 2, ... Cure: fetch it again.")
    problems: list[str] = []
    videos: dict[str, Annotated] = {}
    for name, split in LISTS.items():
        path = folder / f"{prefix}{name}.json"
        if not path.is_file():
            problems.append(f"{path.name} is missing: no {split} videos")
            continue
        for entry in _json(path):
            video_id = str(entry["id"])
            label = -1 if split == "test" else _label(entry, numbers, path)
            if video_id in videos:
                problems.append(f"video {video_id} is listed twice: {videos[video_id].splits[0]} and {split}")
                continue
            label_name = classes[label] if label >= 0 else ""
            videos[video_id] = Annotated(video_id, f"{video_id}.webm", label, label_name, (split,))
    return Annotations(classes, list(videos.values()), problems)


def _label(entry: dict[str, Any], numbers: dict[str, int], path: Path) -> int:
    template = str(entry.get("template", "")).replace("[", "").replace("]", "")
    if template not in numbers:
        raise InputError(
            f"{path}: video {entry['id']} has the template {entry.get('template')!r}, which is no class of the labels' "
            "file. Cure: take both files from the same release."
        )
    return numbers[template]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}. Cure: fetch it again.") from None
