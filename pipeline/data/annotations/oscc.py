"""Ego4D object state change classification: windows of long videos, class 1 where an object changes.

Windows are cut with the `parent_*` fields (frames of the whole video at 30 a second). They are not always 8 s
long, negatives lack the fields of the change, and `state_change` itself may be missing, which counts as no
change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pipeline.data.annotations.base import ListedVideo, Listing, find_folder, read_json, understood
from pipeline.errors import InputError

CURE = "name the folder with fho_oscc-pnr_train.json, fho_oscc-pnr_val.json (and ..._test_unannotated.json)."
FILES = {
    "train": "fho_oscc-pnr_train.json",
    "val": "fho_oscc-pnr_val.json",
    "test": "fho_oscc-pnr_test_unannotated.json",
}
CLASSES = ["no state change", "state change"]

#: Frames per second that the annotations count in ("canonical" videos).
FPS = 30
USUAL_FRAMES = 8 * FPS


class Clip(TypedDict, total=False):
    """The entries that are read of a list's clip; frames are those of the whole video."""

    unique_id: str
    video_uid: str
    parent_start_frame: int
    parent_end_frame: int
    parent_start_sec: float
    parent_end_sec: float
    state_change: bool


@dataclass(frozen=True)
class Window:
    """One clip to cut: frames start <= i < end of the whole video `video_uid`."""

    unique_id: str
    video_uid: str
    start_frame: int
    end_frame: int

    @property
    def file(self) -> str:
        return f"{self.unique_id}.mp4"


def read(root: Path) -> Listing:
    """Parse the lists below `root`; see :func:`read_windows`."""
    return read_windows(root)[0]


@understood
def read_windows(root: Path) -> tuple[Listing, list[Window]]:
    """The annotations, and the window of each video in the same order.

    Raises:
        InputError: no list at all, one is not JSON of the expected form, or a window has no frames.
    """
    folder = find_folder(root, lambda names: any(name in names for name in FILES.values()), FILES["train"], CURE)
    videos: dict[str, ListedVideo] = {}
    windows: dict[str, Window] = {}
    problems: list[str] = []
    notes = {"state_change_missing": 0, "windows_not_8_seconds": 0, "seconds_and_frames_disagree": 0}
    for split, name in FILES.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing: no {split} videos")
            continue
        for clip in _clips(path):
            window = _window(clip, path)
            key = window.unique_id
            if key in videos:
                problems.append(f"window {key} is listed twice: {videos[key].splits[0]} and {split}")
                continue
            label = -1
            if split != "test":
                notes["state_change_missing"] += "state_change" not in clip
                label = int(bool(clip.get("state_change", False)))
            frames = window.end_frame - window.start_frame
            notes["windows_not_8_seconds"] += frames != USUAL_FRAMES
            seconds = float(clip.get("parent_end_sec") or 0) - float(clip.get("parent_start_sec") or 0)
            notes["seconds_and_frames_disagree"] += seconds > 0 and abs(seconds * FPS - frames) > 1
            windows[key] = window
            videos[key] = ListedVideo(key, window.file, (split,), label, CLASSES[label] if label >= 0 else "")
    return Listing(list(CLASSES), list(videos.values()), problems, notes), list(windows.values())


def _clips(path: Path) -> list[Clip]:
    content = read_json(path)
    clips = content.get("clips") if isinstance(content, dict) else None
    if not isinstance(clips, list):
        raise InputError(f"{path}: expected an object with a list 'clips'. Cure: fetch it again.")
    return clips


def _window(clip: Clip, path: Path) -> Window:
    try:
        window = Window(
            str(clip["unique_id"]),
            str(clip["video_uid"]),
            int(clip["parent_start_frame"]),
            int(clip["parent_end_frame"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: clip {clip.get('unique_id')!r} lacks a usable field: {error}. Cure: fetch it again."
        ) from None
    for name in (window.unique_id, window.video_uid):
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"{path}: {name!r} cannot name a file. Cure: fetch it again.")
    if not 0 <= window.start_frame < window.end_frame:
        raise InputError(
            f"{path}: clip {window.unique_id} spans frames {window.start_frame} to {window.end_frame}. "
            "Cure: fetch it again."
        )
    return window
