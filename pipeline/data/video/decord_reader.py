"""decord's reader, for files that PyAV crashes on: in sequence only, as its jumps give wrong pictures in many files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.video.reader import VideoError, VideoReader, first_line, missing_frame


class DecordReader(VideoReader):
    def __init__(self, path: str) -> None:
        """Open a file.

        Args:
            path: absolute.

        Raises:
            VideoError: decord does not open it, or its first frame does not decode.
        """
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.reader = "decord"
        self.rotation = 0  # decord turns pictures and does not say by how much
        try:
            # One thread: files are spread over processes, and it bounds the memory.
            self._video = decord.VideoReader(path, num_threads=1)
            self.num_frames = len(self._video)
            if not self.num_frames:
                raise VideoError("no_frames", f"{path}: decord finds no frame")
            self.fps = float(self._video.get_avg_fps())
        except (decord.DECORDError, IndexError, RuntimeError, UnicodeEncodeError) as error:
            raise VideoError("undecodable", f"decord cannot open it: {first_line(error)}") from None
        self.height, self.width = self._first().shape[:2]

    def all_frames(self) -> Iterator[np.ndarray]:
        import decord

        # The next frame is each time the one after: `_first` leaves off behind frame 0.
        yield self._first()
        for number in range(1, self.num_frames):
            try:
                frame = np.asarray(_Borrowed(self._video.next()))
            except StopIteration:
                told = f"decord finds {number} of {self.num_frames} frames"
                raise VideoError("undecodable", told) from None
            except (decord.DECORDError, RuntimeError) as error:
                raise VideoError("undecodable", f"decord cannot decode a frame: {first_line(error)}") from None
            yield frame

    def pick(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        waiting = iter(wanted)
        upcoming = next(waiting, None)
        if upcoming is None:
            return
        for number, frame in enumerate(self.all_frames()):
            if number == upcoming:
                yield frame
                upcoming = next(waiting, None)
                if upcoming is None:
                    return
        raise missing_frame(upcoming)

    def close(self) -> None:
        self._video = None

    def _first(self) -> np.ndarray:
        import decord

        try:
            # As a batch: it goes back to the start, and some widths (48) fail there only.
            first: np.ndarray = self._video.get_batch([0]).asnumpy()[0]
        except (decord.DECORDError, IndexError, RuntimeError) as error:
            raise VideoError("undecodable", f"decord cannot decode a frame: {first_line(error)}") from None
        return first


class _Borrowed:
    """decord's own memory of a uint8 frame, for `np.asarray`: the array keeps this, and this keeps the frame."""

    def __init__(self, frame: Any) -> None:
        held = frame.handle.contents
        self._frame = frame
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": frame.shape,  # without gaps between rows, as a batch copies it
            "data": (held.data + held.byte_offset, True),  # read-only
        }


def plain_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Frames as one reads them without this package: open with decord, take a batch. For benchmarks.

    Raises:
        VideoError: decord does not open it or does not decode a frame.
    """
    import decord

    try:
        frames: np.ndarray = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    except (decord.DECORDError, IndexError, RuntimeError) as error:
        raise VideoError("undecodable", f"decord cannot decode a frame: {first_line(error)}") from None
    return frames
