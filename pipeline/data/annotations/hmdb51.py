"""HMDB51: 51 classes, three splits; one list for each class and split, flags 1 train, 2 test, 0 unused.

Names hold `!()#&;[]+~@`, and lines end in a blank.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pipeline.data.annotations.base import ListedVideo, Listing, find_folder, lines_of
from pipeline.errors import InputError

CURE = "name the folder with <class>_test_split1.txt ... (testTrainMulti_7030_splits)."
ROLES = {"1": "train", "2": "test", "0": "unused"}
SPLITS = ("1", "2", "3")
LIST_NAME = re.compile(r"(.+)_test_split([123])\.txt")

#: Every class and split has exactly so many (the publisher's rule).
TRAIN_PER_CLASS, TEST_PER_CLASS = 70, 30


def read(root: Path) -> Listing:
    """Parse the official lists below `root`.

    Raises:
        InputError: a list is missing, or a line has another form than "name flag".
    """
    folder = find_folder(
        root, lambda names: any(LIST_NAME.fullmatch(name) for name in names), "*_test_split1.txt", CURE
    )
    lists = {match.groups(): path for path in folder.iterdir() if (match := LIST_NAME.fullmatch(path.name))}
    classes = sorted({name for name, _ in lists})
    roles: dict[tuple[str, str], list[str]] = {}
    problems: list[str] = []
    for name in classes:
        for position, split in enumerate(SPLITS):
            if (name, split) not in lists:
                raise InputError(f"{folder / f'{name}_test_split{split}.txt'} is missing. Cure: {CURE}")
            entries = [_entry(lists[name, split], line) for line in lines_of(lists[name, split])]
            for file, role in entries:
                roles.setdefault((name, file), ["unused"] * len(SPLITS))[position] = role
            counts = Counter(role for _, role in entries)
            if (counts["train"], counts["test"]) != (TRAIN_PER_CLASS, TEST_PER_CLASS):
                problems.append(
                    f"{name}, split {split}: {counts['train']} train and {counts['test']} test videos, "
                    f"published {TRAIN_PER_CLASS} and {TEST_PER_CLASS}"
                )
    repeated = Counter(file for _, file in roles)
    videos = [
        ListedVideo(
            video_id=file.rsplit(".", 1)[0] if repeated[file] == 1 else f"{name}/{file.rsplit('.', 1)[0]}",
            path=f"{name}/{file}",
            splits=tuple(splits),
            label=classes.index(name),
            label_name=name,
        )
        for (name, file), splits in sorted(roles.items())
    ]
    shared = sum(count > 1 for count in repeated.values())
    return Listing(classes, videos, problems, {"file_names_in_several_classes": shared})


def _entry(path: Path, line: str) -> tuple[str, str]:
    file, _, flag = line.rpartition(" ")
    if not file or flag not in ROLES:
        raise InputError(f"{path}: {line!r} is not 'name flag' with flag 0, 1 or 2. Cure: fetch the lists again.")
    return file.strip(), ROLES[flag]
