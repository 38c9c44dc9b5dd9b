"""Video files in and out. One meaning of "frame n" in every path: the n-th picture of one sequential pass with PyAV.

PyAV reads, in sequence or from an entry that ingest has proven for that very file; decord takes over the few files that
PyAV crashes on. Both return RGB as shown: turned and mirrored by the display matrix. T frames, H height, W width.
"""

from pipeline.data.video.choose import open_video, preload
from pipeline.data.video.decord_reader import plain_frames
from pipeline.data.video.reader import VideoError, VideoReader
from pipeline.data.video.write import write_video

__all__ = ["VideoError", "VideoReader", "open_video", "plain_frames", "preload", "write_video"]
