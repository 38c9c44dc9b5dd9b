"""A switch for kernels that repeat themselves, and that it ends with the training."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import InputError
from pipeline.training.determinism import deterministic_kernels


def test_only_repeating_kernels_run_while_it_lasts() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    with deterministic_kernels(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled(), "flash attention repeats itself only then"
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.cudnn_sdp_enabled()) == before


def test_without_it_nothing_changes() -> None:
    with deterministic_kernels(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_such_a_kernel_ends_the_training_with_its_name() -> None:
    def meet(what: str) -> None:
        with deterministic_kernels(True):
            raise RuntimeError(what)

    with pytest.raises(InputError, match=r"compute.deterministic = true, but put_ has no kernel.*Cure"):
        meet("put_ does not have a deterministic implementation, but you set ...")
    with pytest.raises(RuntimeError, match="out of memory"):
        meet("out of memory")
    assert not torch.are_deterministic_algorithms_enabled()
