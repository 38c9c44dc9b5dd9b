"""The planner's numbers: published cost, memory that a real step has, batches that keep the recipe."""

import math

import pytest

from pipeline.efficiency import DEVICES, GIB
from pipeline.errors import InputError
from pipeline.plan import _propose, plan
from pipeline.plan_memory import footprint, peak_bytes

TINY = {"img_size": 64, "num_frames": 16, "strategy": "everest", "keep_ratio": 0.5, "visible_ratio": 0.2}


def test_memory_is_predicted_within_a_few_percent_of_a_real_step() -> None:
    name, clip = "everest_pretrain_tiny_patch16_224", (16, 64)
    predicted = footprint(name, TINY, clip, "fp32").at(12)
    _, real = peak_bytes(name, TINY, clip, 12, "fp32", recompute=False, fake=False)
    assert predicted == pytest.approx(real, rel=0.05)


def test_recomputing_activations_saves_memory() -> None:
    name, clip = "everest_tiny_patch16_224", (16, 64)
    arguments = {"img_size": 64, "num_frames": 16, "num_classes": 8, "strategy": "none"}
    plain = footprint(name, arguments, clip, "fp32")
    recomputed = footprint(name, arguments, clip, "fp32", recompute=True)
    assert recomputed.per_clip < 0.6 * plain.per_clip


def test_the_published_recipe_has_the_published_cost() -> None:
    found = plan("ucf101", "h100", 8, memory=False)
    pretrain, finetune = found["stages"]
    assert pretrain["gmacs_per_clip"] == pytest.approx(19.8, abs=0.05)
    assert finetune["gmacs_per_clip"] == pytest.approx(98.0, abs=0.1)
    assert pretrain["tokens_per_clip"] == 156
    assert pretrain["steps"] == 3200 * (9537 // 192)


def test_the_published_epochs_follow_from_their_share_of_the_peak() -> None:
    everest, videomae = (
        plan(name, "a6000", 8, mfu=0.046, memory=False)["stages"][0] for name in ("k400", "videomae_k400")
    )
    minutes = {
        row["gmacs_per_clip"]: row["step_seconds"] * 240_258 / row["global_batch"] / 60 for row in (everest, videomae)
    }
    ours, theirs = minutes.values()
    # 8 min 18 s and 18 min 42 s an epoch: the first fixes the share, the second is predicted from it.
    assert ours == pytest.approx(8.3, rel=0.05)
    assert theirs == pytest.approx(18.7, rel=0.25)


def test_a_proposed_batch_keeps_the_global_batch_and_fits() -> None:
    device = DEVICES["4090"]
    micro, accumulate = _propose(each=96, repeated=1, per_clip=0.5 * GIB, fixed=2 * GIB, device=device)
    assert micro * accumulate == 96
    assert 2 + 0.5 * micro <= 24 * 0.88
    assert (micro, accumulate) == (32, 3)
    assert _propose(8, 1, 30 * GIB, 0.0, device) == (0, 0)


def test_more_devices_take_less_time_down_to_a_bound() -> None:
    one, eight = (plan("hmdb51", "a100-80", n, memory=False) for n in (1, 8))
    assert one["hours_total"] > 4 * eight["hours_total"]
    assert eight["stages"][0]["bound_by"] in ("arithmetic", "decoding", "exchange")
    assert math.isfinite(eight["disk_gib"]["cache"])


def test_the_demo_can_be_planned_on_this_cpu_with_its_memory() -> None:
    found = plan("demo", "cpu", 2)
    assert [row["stage"] for row in found["stages"]] == [
        "pretrain",
        "finetune motion",
        "finetune state_change",
    ]
    assert all(row["fits"] and row["memory_gib"] > 0 for row in found["stages"])
    assert any("assumed" in line for line in found["assumptions"])


def test_unknown_devices_and_impossible_counts_are_refused() -> None:
    with pytest.raises(InputError, match=r"gpu = 'h1000'.*h100"):
        plan("ucf101", "h1000", 8)
    with pytest.raises(InputError, match="at least 1"):
        plan("ucf101", "h100", 0)
    with pytest.raises(InputError, match=r"192 does not divide among 7"):
        plan("ucf101", "h100", 7, memory=False)
