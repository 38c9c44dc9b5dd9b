"""UCF101 as it is published, but small: the archive of its lists and the archive of its videos."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SPLITS = (1, 2, 3)


def write_ucf101(folder: Path, classes: Sequence[str], videos: Mapping[str, bytes]) -> None:
    """Write the two zips into `folder`. Split n tests on the videos of group n and trains on the others.

    Args:
        classes: in the order of their numbers.
        videos: `Class/v_Class_g01_c01.avi` -> its bytes.
    """
    lists = {"classInd.txt": [f"{number} {name}" for number, name in enumerate(classes, 1)]}
    for split in SPLITS:
        test = [video for video in videos if f"_g{split:02d}_" in video]
        train = [f"{video} {classes.index(video.split('/')[0]) + 1}" for video in videos if video not in test]
        lists |= {f"trainlist{split:02d}.txt": train, f"testlist{split:02d}.txt": test}
    texts = {f"ucfTrainTestlist/{name}": _lines(lines) for name, lines in lists.items()}
    (folder / "UCF101TrainTestSplits-RecognitionTask.zip").write_bytes(zipped(texts))
    (folder / "UCF101_videos.zip").write_bytes(zipped({f"UCF-101/{video}": data for video, data in videos.items()}))


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()
