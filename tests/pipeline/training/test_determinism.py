"""A switch for kernels that repeat themselves, and that it ends with the training."""

from __future__ import annotations

import torch

from pipeline.training.determinism import deterministic_kernels


def test_only_repeating_kernels_run_while_it_lasts() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    with deterministic_kernels(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.cudnn_sdp_enabled()) == before


def test_without_it_nothing_changes() -> None:
    with deterministic_kernels(False):
        assert not torch.are_deterministic_algorithms_enabled()
