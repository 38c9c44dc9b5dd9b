"""Sets behind a login or a licence: what the user places by hand is checked, and what is missing is named exactly."""

from __future__ import annotations

import csv
import logging
import re
import shutil
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.annotations import oscc
from pipeline.data.annotations.oscc import Window, read_windows
from pipeline.data.annotations.ssv2 import OLD_PREFIX
from pipeline.data.archives.rules import kind_of
from pipeline.data.archives.unpack import unpack
from pipeline.data.sources import catalogue
from pipeline.data.sources.base import PlannedFile
from pipeline.data.sources.catalogue import Item
from pipeline.data.sources.part import Address, NotThere
from pipeline.data.video import VideoError
from pipeline.data.video.cut import cut_window
from pipeline.data.video.listing import video_files
from pipeline.errors import EverestError, InputError
from pipeline.system.files import publish_file
from pipeline.system.processes import worker_pool
from pipeline.system.progress import counter

if TYPE_CHECKING:
    from pipeline.data.sources.fetcher import Fetcher

log = logging.getLogger(__name__)

#: The older release is cut into so many parts.
SSV2_PARTS = 20
SSV2_VIDEOS = "videos/ssv2"
UNWRAPPED = ".unpacked"
WINDOWS = "videos/oscc"
FULL_SCALE = "full_scale"
MANIFEST = f".everest/ego4d_{FULL_SCALE}.csv"


def items_of(dataset: str, fetcher: Fetcher) -> list[Item]:
    """What a mirror of a gated set would give; nothing without mirrors (Ego4D: its bucket counts as one)."""
    if dataset == "ssv2":
        lists = [
            Item(key=f"{OLD_PREFIX}{name}.json", place=f"annotations/{OLD_PREFIX}{name}.json")
            for name in catalogue.SSV2_LISTS
        ]
        parts = [Item(key=f"20bn-something-something-v2-{number:02d}") for number in range(SSV2_PARTS)]
        return [*lists, *parts] if fetcher.source.mirrors else []
    return [
        Item(
            key=name,
            place=f"annotations/{name}",
            addresses=(Address(f"{catalogue.OSCC_BUCKET}/annotations/{name}"),),
        )
        for name in oscc.FILES.values()
    ]


def place_ssv2(raw: Path, fetcher: Fetcher) -> None:
    """Check and unpack the parts of Something-Something v2.

    Raises:
        InputError: parts or lists are missing, each of them named, with the folder where they belong.
    """
    downloads = raw / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    _adopt_lists(raw, downloads)
    if fetcher.source.mirrors:
        items = items_of("ssv2", fetcher)
        fetcher.bring(item for item in items if item.place)
        if not (raw / SSV2_VIDEOS).exists():
            _fetch_parts(fetcher, [item for item in items if not item.place])
    missing = missing_ssv2(raw)
    if missing:
        raise InputError(
            f"Something-Something v2 needs a login, so {len(missing)} files must be placed in "
            f"{downloads}:\n  "
            + "\n  ".join(missing)
            + f"\nCure: get them from {catalogue.SSV2_WHERE}, put them there, and start again."
        )
    if not (raw / SSV2_VIDEOS).exists():
        parts = _parts(downloads)
        if kind_of(parts[0]) == "zip":
            parts = _from_zips(downloads, parts)
        count = unpack(parts, raw / SSV2_VIDEOS)
        for folder in downloads.glob(f"*{UNWRAPPED}"):
            shutil.rmtree(folder)  # a second copy of what the zips hold, which stay
        log.info("%d files came out of %d parts", count, len(parts))


def missing_ssv2(raw: Path) -> list[str]:
    """Names of the files that must still be placed by hand."""
    missing = [] if (raw / SSV2_VIDEOS).exists() else _missing_parts(raw / "downloads")
    if not _has_lists(raw / "annotations"):
        missing += [f"{OLD_PREFIX}{name}.json (or labels/{name}.json)" for name in catalogue.SSV2_LISTS]
    return missing


def place_oscc(raw: Path, fetcher: Fetcher, limit: int | None) -> None:
    """Bring Ego4D's lists and the long videos that they name, and cut the windows.

    Raises:
        InputError: the licence's keys are refused, or files must be placed by hand; they are named.
    """
    try:
        fetcher.bring(items_of("oscc", fetcher)[:2])
        _bring_test_list(fetcher)
        fetcher.bring(_long_videos(fetcher, _missing_videos(raw, limit)))
    except EverestError as error:
        names = ", ".join(oscc.FILES.values())
        raise InputError(
            f"{error}\nEgo4D needs a licence: {catalogue.OSCC_WHERE}. Cure: set source.profile to the AWS "
            "profile with its "
            f"keys, or place {names} in {raw / 'annotations'} and the videos as <video_uid>.mp4 in "
            f"{raw / FULL_SCALE}."
        ) from None
    cut_windows(raw, raw / "annotations", raw / FULL_SCALE, limit)


def plan_oscc(fetcher: Fetcher, limit: int | None) -> list[PlannedFile]:
    """The long videos that a download would fetch: those that the lists name, or one entry until these are here."""
    if not all(fetcher.is_done(item) for item in items_of("oscc", fetcher)[:2]):
        return [PlannedFile(f"{FULL_SCALE}/*.mp4", "named by the lists, which are not here yet", None, present=False)]
    missing = _missing_videos(fetcher.raw, limit)
    if fetcher.source.mirrors or (fetcher.raw / MANIFEST).exists():
        return [file for item in _long_videos(fetcher, missing) for file in fetcher.plan(item)]
    where = "named by the bucket's manifest, which is not here yet"
    return [PlannedFile(f"{FULL_SCALE}/{uid}.mp4", where, None, present=False) for uid in missing]


def cut_windows(raw: Path, annotations: Path, videos: Path, limit: int | None) -> None:
    """Cut every window that is not there yet; one that cannot be cut is left out and counted as missing.

    Raises:
        EverestError: the disk is full, or a worker was killed; what is cut is kept.
    """
    _, windows = read_windows(annotations)
    todo = [window for window in windows[:limit] if not (raw / WINDOWS / window.file).exists()]
    (raw / WINDOWS).mkdir(parents=True, exist_ok=True)
    places = {Path(path).stem: videos / path for path in video_files(videos)[0]} if videos.is_dir() else {}
    ready = [(window, places[window.video_uid]) for window in todo if window.video_uid in places]
    if len(ready) < len(todo):
        log.warning("%d windows lie in videos that are not there", len(todo) - len(ready))
    with worker_pool(2) as pool:
        tasks = {pool.submit(_cut, raw / WINDOWS / window.file, place, window): window for window, place in ready}
        for task in counter("cutting windows")(as_completed(tasks), len(tasks)):
            if problem := task.result():
                log.warning("%s: %s", tasks[task].file, problem)


def _cut(target: Path, source: Path, window: Window) -> str:
    try:
        cut_window(source, target, window.start_frame, window.end_frame, oscc.FPS)
    except VideoError as error:
        return str(error)
    return ""


def _bring_test_list(fetcher: Fetcher) -> None:
    """The test list has no labels and is no part of older releases: its absence is no failure."""
    try:
        fetcher.bring(items_of("oscc", fetcher)[2:])
    except EverestError as error:
        log.warning("no test list: %s", error)


def _missing_videos(raw: Path, limit: int | None) -> list[str]:
    """The long videos that are not here and that windows lie in which are not cut yet."""
    _, windows = read_windows(raw / "annotations")
    wanted = {window.video_uid for window in windows[:limit] if not (raw / WINDOWS / window.file).exists()}
    videos = raw / FULL_SCALE
    return sorted(wanted - ({Path(path).stem for path in video_files(videos)[0]} if videos.is_dir() else set()))


def _long_videos(fetcher: Fetcher, missing: list[str]) -> list[Item]:
    """Addresses of the long videos: from the bucket's own manifest, or by name on a mirror."""
    places = {} if fetcher.source.mirrors or not missing else _bucket_manifest(fetcher)
    return [
        Item(
            key=f"{FULL_SCALE}/{uid}.mp4",
            place=f"{FULL_SCALE}/{uid}.mp4",
            addresses=(Address(places[uid]),) if uid in places else (),
        )
        for uid in missing
        if uid in places or fetcher.source.mirrors
    ]


def _bucket_manifest(fetcher: Fetcher) -> dict[str, str]:
    """video_uid -> s3:// address. The column's name differs between releases."""
    address = Address(f"{catalogue.OSCC_BUCKET}/{catalogue.OSCC_VIDEOS}/manifest.csv")
    fetcher.bring([Item(key="manifest.csv", place=MANIFEST, addresses=(address,))])
    with (fetcher.raw / MANIFEST).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    places: dict[str, str] = {}
    for row in rows:
        where = row.get("canonical_s3_location") or row.get("s3_path") or ""
        uid = row.get("video_uid") or row.get("file_uid") or Path(where).stem
        if where.startswith("s3://"):
            places[uid] = where
    if not places:
        raise InputError(
            f"{fetcher.raw / MANIFEST} names no s3:// address in canonical_s3_location or s3_path. Cure: remove the "
            "file and start again."
        )
    return places


def _fetch_parts(fetcher: Fetcher, parts: list[Item]) -> None:
    """Parts that a mirror has. It may hold fewer than the publisher: the first absent one ends it."""
    for part in parts:
        try:
            fetcher.bring([part])
        except NotThere:
            if part is parts[0]:
                raise
            log.info("%s is not on the mirrors: the parts before it are taken for all", part.key)
            return


def _parts(downloads: Path) -> list[Path]:
    if not downloads.is_dir():
        return []
    parts = [path for path in downloads.iterdir() if re.fullmatch(catalogue.SSV2_PART, path.name)]
    return sorted(parts, key=lambda path: path.name)


def _missing_parts(downloads: Path) -> list[str]:
    """Gaps in the numbers, or all of them where there is none. More than the last number cannot be known."""
    present = {int(path.name.removesuffix(".zip")[-2:]) for path in _parts(downloads)}
    last = max(present) + 1 if present else SSV2_PARTS
    return [f"20bn-something-something-v2-{number:02d}" for number in range(last) if number not in present]


def _from_zips(downloads: Path, zips: list[Path]) -> list[Path]:
    """The newer release wraps each part in a zip of its own."""
    parts = []
    for path in zips:
        folder = downloads / f"{path.name}{UNWRAPPED}"
        if not folder.exists():
            unpack(path, folder)
        parts += [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return sorted(parts, key=lambda path: path.name)


def _adopt_lists(raw: Path, downloads: Path) -> None:
    """Lists that were placed beside the parts, loose or zipped, go to the annotations."""
    target = raw / "annotations"
    for path in sorted(downloads.rglob("*.json")):
        if path.name.removeprefix(OLD_PREFIX).removesuffix(".json") in catalogue.SSV2_LISTS:
            target.mkdir(parents=True, exist_ok=True)
            publish_file(path, target / path.name)
    for path in sorted(downloads.glob("*labels*.zip")):
        if not (target / "labels").exists():
            unpack(path, target / "labels")


def _has_lists(folder: Path) -> bool:
    return folder.is_dir() and any(
        path.name in ("labels.json", f"{OLD_PREFIX}labels.json") for path in folder.rglob("*.json")
    )
