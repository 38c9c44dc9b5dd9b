"""Distance maps: how much each place of a video changes from one tubelet to the next.

METHOD sections 2 and 3.

Alignment. At frame step k, the slot that starts at frame p is the tubelet (p, p+k), and the slot before it
starts at p-2k. A map is stored for every p = 0, k, 2k, ..., so any window whose first frame is a multiple
of k finds the maps of all its slots, 2 rows apart; this is why cached selection starts its windows on
multiples of k. Near the ends of the video, where p-2k or p+k does not exist, the nearest map that does
takes its place.

Places. The whole frame is divided into (resolution/16)^2 equal rectangles, so a map has as many places as
the model has tokens in a slot, whatever the video's shape. A random crop sees at least two thirds of the
short side: a map ranks the slots of the whole frame, not of the crop.

Values. The L2 distance over a rectangle's pixels in [0, 1], scaled to the 1536 values of a 2x16x16x3
tubelet, in fp16. Instead of pixels, an embedding of the tubelets can be compared: a seeded random one, or the
trained tubelet embedding of a saved model.

Shapes: J maps of a video, L places, g x g the grid of places.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.arrays import TUBELET, U8, Ints
from pipeline.errors import InputError

#: Values of one tubelet, 2 x 16 x 16 x 3.
TUBELET_VALUES = TUBELET * 16 * 16 * 3
#: Width and seed of the random embedding. By Johnson-Lindenstrauss 64 values keep L2 distances within about
#: 10 %.
EMBEDDING_WIDTH, EMBEDDING_SEED = 64, 0
#: ImageNet's deviation, which the pixels of a trained embedding are divided by.
DEVIATION = (0.229, 0.224, 0.225)


def num_places(resolution: int) -> int:
    """L: places of a map at a clip resolution in pixels."""
    return (resolution // 16) ** 2


class MapBuilder:
    """Turns the frames p = 0, k, 2k, ... of one video, given in order, into its distance maps.

    Only the last two frames are kept, so memory does not grow with the video.
    """

    def __init__(self, resolution: int, source: str = "pixels", weights: str | None = None) -> None:
        self._grid = resolution // 16
        self._embedding = embedding(weights) if source == "embedding" else None
        self._past: list[np.ndarray] = []
        self._steps: list[np.ndarray] = []

    def add(self, frame_HWC: U8) -> None:
        """The next frame, uint8 [H, W, 3]; all frames of a video have one size."""
        current = frame_HWC if self._embedding is None else patches(frame_HWC, self._grid)
        if len(self._past) == TUBELET:
            self._steps.append(self._compare(current, self._past.pop(0)))
        self._past.append(current)

    def _compare(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        # Pixels: squared distances [L], which add up over a tubelet's two frames. Embedding: differences
        # [L, 768].
        return squared_distances(now, before, self._grid) if self._embedding is None else now - before

    def maps(self) -> npt.NDArray[np.float16]:
        """[J, L] fp16, row j for the slot that starts at frame j*k."""
        count = len(self._past) + len(self._steps)
        places = self._grid**2
        if not self._steps:
            return np.zeros((count, places), np.float16)
        steps = np.stack(self._steps)  # row i: frame i+2 against frame i, both in steps of k
        pairs = np.minimum(np.arange(len(steps)) + 1, len(steps) - 1)
        if self._embedding is None:
            distance = np.sqrt(steps + steps[pairs])
        else:
            both = np.concatenate([steps, steps[pairs]], axis=-1)
            distance = np.linalg.norm(both @ self._embedding, axis=-1)
        rows = np.clip(np.arange(count) - TUBELET, 0, len(distance) - 1)
        return distance[rows].astype(np.float16)


def squared_distances(now_HWC: U8, before_HWC: U8, grid: int) -> np.ndarray:
    """Squared L2 distances [g*g] between two frames' rectangles, scaled to 768 values in [0, 1] each."""
    height, width = now_HWC.shape[:2]
    # |a - b| of uint8 without widening.
    gap = np.maximum(now_HWC, before_HWC)
    gap -= np.minimum(now_HWC, before_HWC)
    rows, columns = edges(height, grid), edges(width, grid)
    square = gap.reshape(height, width * 3).astype(np.float32)
    square *= square
    # A sum over whole pixel rows adds vectors; `reduceat` over rows takes four times as long.
    strips = np.empty((grid, width * 3), np.float32)
    for strip, top, bottom in zip(strips, rows[:-1], rows[1:], strict=True):
        np.add.reduce(square[top:bottom], axis=0, out=strip)
    total = np.add.reduceat(strips, columns[:-1] * 3, axis=1)
    area = np.outer(np.diff(rows), np.diff(columns)) * 3.0
    scaled: np.ndarray = (total * (TUBELET_VALUES / TUBELET / 255.0**2) / area).reshape(-1)
    return scaled


def edges(length: int, parts: int) -> Ints:
    """Borders of `parts` equal pieces of `length` pixels, rounded down: parts + 1 increasing numbers."""
    return np.arange(parts + 1, dtype=np.int64) * length // parts


def patches(frame_HWC: U8, grid: int) -> np.ndarray:
    """The frame resized to g*16 pixels square and cut into patches, float32 in [0, 1], [g*g, 768]."""
    from PIL import Image

    side = grid * 16
    resized = frame_HWC
    if frame_HWC.shape[:2] != (side, side):
        resized = np.asarray(Image.fromarray(frame_HWC).resize((side, side), Image.Resampling.BILINEAR))
    cut = resized.reshape(grid, 16, grid, 16 * 3).swapaxes(1, 2)
    return cut.reshape(grid * grid, 16 * 16 * 3).astype(np.float32) / 255.0


@functools.cache
def embedding(weights: str | None = None) -> np.ndarray:
    """A linear map [1536, D] of a tubelet's values in [0, 1], ordered (p0 p1 p2 c): seeded random, or a model's.

    Args:
        weights: folder of a saved model. Its embedding sees pixels that are divided by ImageNet's deviation; mean and
            bias cancel in a distance.

    Raises:
        InputError: the folder holds no weights, or no tubelet embedding of 2 x 16 x 16 x 3 values.
    """
    if weights is not None:
        return trained_embedding(Path(weights))
    generator = np.random.Generator(np.random.Philox(EMBEDDING_SEED))
    matrix = generator.standard_normal((TUBELET_VALUES, EMBEDDING_WIDTH), dtype=np.float32)
    return matrix / np.float32(np.sqrt(EMBEDDING_WIDTH))


def trained_embedding(folder: Path) -> np.ndarray:
    """As :func:`embedding`, of the model in `folder`."""
    from models.weights import WEIGHTS, read_state

    path = folder / WEIGHTS
    cure = "Cure: preprocess.map_weights must name a folder of training or of `everest convert-checkpoint`."
    try:
        state = read_state(folder)
    except ValueError as error:
        raise InputError(f"preprocess.map_weights = {str(folder)!r}: {error}") from None
    kernel = next((value for key, value in state.items() if key.endswith("patch_embed.proj.weight")), None)
    if kernel is None:
        raise InputError(f"{path} holds no tubelet embedding. {cure}")
    matrix = kernel.float().numpy()
    if matrix.size // len(matrix) != TUBELET_VALUES:
        raise InputError(f"the tubelet embedding of {path} has shape {list(matrix.shape)}, expected [D, 1536]. {cure}")
    kernel_DCTHW = matrix.reshape(-1, 3, TUBELET, 16, 16) / np.asarray(DEVIATION, np.float32).reshape(3, 1, 1, 1)
    return np.ascontiguousarray(kernel_DCTHW.transpose(2, 3, 4, 1, 0).reshape(TUBELET_VALUES, -1))


def window_maps(maps_JL: npt.NDArray[np.float16], slot_starts: npt.ArrayLike, step: int) -> npt.NDArray[np.float16]:
    """The maps [C, L] of the slots that start at the given frames, each at the nearest stored place."""
    rows = (np.asarray(slot_starts, dtype=np.int64) + step // 2) // step
    rows_JL: npt.NDArray[np.float16] = maps_JL[np.minimum(rows, len(maps_JL) - 1)]
    return rows_JL
