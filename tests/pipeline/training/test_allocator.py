"""A training on a CPU keeps the memory that it frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from pipeline.training.allocator import keep_freed_memory
import torch
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    return torch.ones(64 * 2**20 // 4).sum()
for _ in range(24):  # until the heap has grown to what the steps need
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Of eight steps that each fill and free 64 MiB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc has no mallopt")
def test_freed_memory_is_reused_by_the_next_step_instead_of_faulted_in_again() -> None:
    assert page_faults("kept") < page_faults("returned") / 10
