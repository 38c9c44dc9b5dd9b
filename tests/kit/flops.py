"""What torch itself counts of a computation, to hold our predicted costs against."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted(compute: Callable[[], object]) -> float:
    """Multiply-adds of a computation; of its products only, as the counter has it."""
    # Attention as two products: torch 2.11's counter does not know the fused kernel of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops() / 2
