"""Arrays that every part of the data path speaks of, and the length of a tubelet."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Frames that share one token in time (METHOD: tubelet of 2).
TUBELET = 2
