"""The step benchmark: contestants do what they say, and its numbers follow from each other."""

from __future__ import annotations

import pytest
import timm
import torch

from models.convert import to_official
from models.selection import Grid
from pipeline.bench.contestants import Contest, Reply, step_multiply_adds
from pipeline.bench.plain import PlainAutoencoder
from pipeline.bench.step import _ratios, _row, _shares, _Worker, command
from pipeline.errors import EverestError, InputError


def test_the_plain_yardstick_computes_our_loss_and_gradients() -> None:
    ours = timm.create_model(
        "everest_pretrain_tiny_patch16_224", img_size=64, keep_ratio=0.5, visible_ratio=0.2, decoder_depth=2
    )
    plain = PlainAutoencoder("tiny", Grid(8, 4, 4), 0.5, 0.2, 2)
    plain.load_state_dict(to_official(ours.state_dict()))
    clip, noise = torch.randn(2, 3, 16, 64, 64), torch.rand(2, 128)
    one, two = ours(clip, noise_BN=noise), plain(clip, noise)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    one.backward()
    two.backward()
    named = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad,
            named[name].grad.view_as(parameter),
            rtol=1e-3,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_the_work_of_a_step_is_three_forwards_less_what_is_never_computed() -> None:
    ours, plain, other = (step_multiply_adds(name, "base", 4) / 4e9 for name in ("ours", "plain", "huggingface"))
    assert ours == pytest.approx(3 * 19.76 - 1.85 - 1.85 * 0.9, rel=0.01)
    assert plain == pytest.approx(3 * 19.76 - 1.85, rel=0.01)
    assert other == pytest.approx(3 * 35.4 - 1.85, rel=0.01)


def test_an_unknown_size_and_an_absent_device_are_refused() -> None:
    with pytest.raises(InputError, match=r"device = 'gpu': expected auto, cpu or cuda.*Cure"):
        command(device="gpu")
    with pytest.raises(InputError, match="size = 'medium', expected one of"):
        command(size="medium")
    with pytest.raises(InputError, match=r"batch = 0.*Cure"):
        command(batch=0)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"sees no GPU.*Cure"):
            command(device="cuda")


def test_a_contestant_that_dies_is_told_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _Worker("ours", Contest("tiny", 1, "cpu", None, False, False))

    class Reset:
        def send(self, _: object) -> None:
            raise ConnectionResetError

    worker.process.kill()
    worker.connection.close()
    monkeypatch.setattr(worker, "connection", Reset())
    with pytest.raises(EverestError, match=r"ours died \(exit code -9\), probably out of memory.*Cure"):
        worker.turn("fp32", 0)


def test_shares_and_ratios_are_of_what_was_measured_not_of_what_is_printed() -> None:
    contest = Contest("base", 4, "cuda", None, False, False)
    ours = _row("ours", "bf16", [Reply(0.00014, 0.00014, 1.0)], contest)
    plain = _row("plain", "bf16", [Reply(0.00016, 0.00016, 1.0)], contest)
    yard = _row("matmul", "bf16", [Reply(0.000151, 0.000151, 1.0)], contest)
    work = ours.gmacs_per_step / yard.gmacs_per_step
    assert _shares(ours, [yard])["share_of_matmul"] == pytest.approx(work * 0.151 / 0.14, abs=6e-4)
    assert _ratios([ours, plain])[0]["times_faster"] == 1.14
    assert yard.printed()["step_seconds"] == 0.000151


def test_the_large_product_takes_a_gpu_longer_than_to_be_told_of_it() -> None:
    on_cpu, on_gpu = (step_multiply_adds("peak", "base", 4, device) for device in ("cpu", "cuda"))
    assert on_gpu / 500e12 > 5e-3 > on_cpu / 500e12  # [s] at 1,000 TFLOP/s


@pytest.mark.slow
def test_contestants_take_turns_and_the_table_is_complete() -> None:
    result = command(size="tiny", batch=1, steps=1, device="cpu", threads=1)
    assert {(r["model"], r["precision"]) for r in result["steps"]} == {
        (model, precision) for model in ("ours", "huggingface", "plain") for precision in ("fp32", "bf16")
    }
    for row in result["steps"]:
        assert row["step_seconds"] > 0
        assert row["peak_memory_gib"] > 0
        assert 0 < row["share_of_matmul"] < 1.5
    assert len(result["ratios"]) == 2 * 4
