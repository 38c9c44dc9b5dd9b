"""The GPU's one-kernel crop, run by Triton's interpreter on a CPU, against the CPU's own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

PROGRAM = """
import numpy as np
import torch
from pipeline.data.pixels.fused_resize import resize_fused
from pipeline.data.pixels.resize import crop_resize, resize_by_products

clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 2, 50, 64, 3), dtype=np.uint8))
boxes = np.asarray([[0, 0, 50, 64], [8, 9, 31, 40], [3, 0, 13, 64], [20, 10, 7, 5]])
flips = np.asarray([False, True, False, True])
fused = resize_fused(clips, torch.from_numpy(boxes).int(), 40, torch.from_numpy(flips))
for other in (crop_resize(clips, boxes, 40, "cpu", flips), resize_by_products(clips, boxes, 40, flips)):
    assert fused.shape == other.shape
    assert int((fused.int() - other.int()).abs().max()) <= 1, (fused.int() - other.int()).abs().max()
alone = resize_fused(clips[1:2], torch.from_numpy(boxes[1:2]).int(), 40, torch.from_numpy(flips[1:2]))
assert torch.equal(alone, fused[1:2])
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="torch without Triton, as its builds for CPUs are")
def test_the_kernel_crops_resizes_and_mirrors_as_a_cpu_does_to_one_grey_level() -> None:
    """Boxes that shrink and that enlarge, at the border and within, upright and wide; noise, the hardest picture."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("this Triton's interpreter cannot count loops with this numpy")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "equal"
