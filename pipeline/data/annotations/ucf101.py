"""UCF101: 101 classes, three splits of train and test lists, whose lines end in CR LF.

Train lines carry a label, test lines do not: the class is the folder's name in both. That also settles the
one class whose folder (`HandstandPushups`) and file names (`v_HandStandPushups_*`) differ.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.annotations.base import ListedVideo, Listing, find_folder, lines_of, understood
from pipeline.errors import InputError

CURE = "name the folder with classInd.txt, trainlist01.txt and testlist01.txt (ucfTrainTestlist)."
SPLITS = (1, 2, 3)


def read(root: Path) -> Listing:
    """Parse the official lists below `root`.

    Raises:
        InputError: a list is missing, or a line names a class that classInd.txt does not.
    """
    folder = find_folder(root, lambda names: "classInd.txt" in names, "classInd.txt", CURE)
    classes = _classes(folder / "classInd.txt")
    number = {name: index for index, name in enumerate(classes)}
    roles: dict[str, list[str]] = {}
    problems: list[str] = []
    for position, split in enumerate(SPLITS):
        for role in ("train", "test"):
            path = folder / f"{role}list{split:02d}.txt"
            if not path.is_file():
                raise InputError(f"{path} is missing. Cure: {CURE}")
            for line in lines_of(path):
                file, label = _entry(line)
                name = file.split("/", 1)[0]
                if name not in number:
                    raise InputError(f"{path}: {file!r} lies in no class of classInd.txt. Cure: fetch the lists again.")
                if label is not None and label != number[name] + 1:
                    problems.append(f"{path.name}: {file} has label {label}, its folder is class {number[name] + 1}")
                assigned = roles.setdefault(file, ["unused"] * len(SPLITS))
                if assigned[position] != "unused":
                    problems.append(f"{file} is listed twice in split {split}")
                assigned[position] = role
    videos = []
    for file in sorted(roles):
        name = file.split("/", 1)[0]
        video_id = file.rsplit("/", 1)[1].rsplit(".", 1)[0]
        videos.append(ListedVideo(video_id, file, tuple(roles[file]), number[name], name))
    return Listing(classes, videos, problems)


@understood
def _classes(path: Path) -> list[str]:
    numbered = dict(line.split(None, 1)[::-1] for line in lines_of(path))
    names = sorted(numbered, key=lambda name: int(numbered[name]))
    if [int(numbered[name]) for name in names] != list(range(1, len(names) + 1)):
        raise InputError(f"{path} does not number its classes 1, 2, 3, ... Cure: fetch the lists again.")
    return names


def _entry(line: str) -> tuple[str, int | None]:
    """`Class/v_Class_g01_c01.avi 1` -> file, 1; without a label -> file, None."""
    head, _, last = line.rpartition(" ")
    return (head.strip(), int(last)) if head and last.isdigit() else (line, None)
