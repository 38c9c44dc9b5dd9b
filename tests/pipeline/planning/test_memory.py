"""What following a step's memory leaves behind in the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLANS_THEN_FORKS = """
import os, torch, models
from pipeline.planning.memory import peak_bytes
small = {"img_size": 32, "num_frames": 8}
peak_bytes("everest_pretrain_tiny_patch16_224", small, (8, 32), 4, "fp32", recompute=False, fake=True, gpu=True)
child = os.fork()
if child == 0:
    weight = torch.ones(1, requires_grad=True)
    weight.sum().backward()
    os._exit(int(weight.grad.item()) + 6)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_that_is_forked_after_a_plan_can_train(root: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PLANS_THEN_FORKS]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7", done.stderr
