"""Learning rates follow their definition, and timm's where it has one."""

import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from pipeline.training.optim import Cosine, scaled_lr


def test_the_rate_scales_with_the_global_batch() -> None:
    assert scaled_lr(1e-3, 192) == pytest.approx(1e-3 * 192 / 256)
    assert scaled_lr(1.5e-4, 1024) == pytest.approx(6e-4)


def test_warm_up_starts_at_zero_and_reaches_the_peak_where_the_cosine_begins() -> None:
    lr = Cosine(peak=0.8, floor=0.08, warmup_steps=10, total_steps=110)
    assert lr(0) == 0.0
    assert lr(5) == pytest.approx(0.4)
    assert lr(10) == pytest.approx(0.8)
    assert lr(60) == pytest.approx(0.08 + 0.5 * 0.72)
    assert lr(110) == pytest.approx(0.08)


def test_the_cosine_equals_timms() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=100,
        lr_min=0.08,
        warmup_t=10,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    ours = Cosine(peak=0.8, floor=0.08, warmup_steps=10, total_steps=110)
    for step in range(110):
        theirs.step_update(step)
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)


def test_epochs_become_steps_and_the_floor_is_scaled_too() -> None:
    lr = Cosine.of(base_lr=1e-3, min_lr=1e-5, global_batch=512, warmup_epochs=2.5, epochs=10, steps_per_epoch=4)
    assert (lr.warmup_steps, lr.total_steps) == (10, 40)
    assert lr.peak == pytest.approx(2e-3)
    assert lr.floor == pytest.approx(2e-5)


def test_a_warm_up_longer_than_the_training_still_leaves_a_step_at_the_peak() -> None:
    lr = Cosine.of(base_lr=1.0, min_lr=0.0, global_batch=256, warmup_epochs=40, epochs=2, steps_per_epoch=5)
    assert lr(9) == pytest.approx(1.0)
    assert all(math.isfinite(lr(step)) for step in range(20))
