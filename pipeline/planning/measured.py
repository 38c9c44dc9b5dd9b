"""Measured figures that planning and scaling compute with: the one place, which docs/benchmarks.md agrees with."""

from __future__ import annotations

#: Clips of 16 frames that one core reads from a cache in a second, cropped and handed over as uint8
#: (docs/benchmarks.md, "Loading clips", one worker).
CLIPS_PER_SECOND = {"jpeg": 231.7, "raw": 3271.0}
#: [s] of one core for one such clip.
CLIP_SECONDS = {store: 1 / rate for store, rate in CLIPS_PER_SECOND.items()}
