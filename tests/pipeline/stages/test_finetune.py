"""The fine-tuning stage on real videos: where it starts, what it leaves, probes with several rates."""

import json
from pathlib import Path

import pytest
import timm
import torch
from small_training import ready

import models  # noqa: F401
from models.weights import load_model, read_info, save_model
from pipeline.data.clips.dataset import ClipDataset, labelled_clips
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.efficiency import clip_cost as geometry
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.stages import finetune
from pipeline.system.processes import StopRequest
from pipeline.training import tasks
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from pipeline.training.probes import LR_FACTORS, Probes
from pipeline.training.worker import TrainingJob, train

RANKS = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _pretrained(params: Params, folder: Path) -> torch.nn.Module:
    torch.manual_seed(7)
    arguments = geometry.autoencoder_arguments(params.pretrain, params.clip)
    model = timm.create_model("everest_pretrain_tiny_patch16_224", **arguments)
    save_model(model, folder, {})
    return model


def _train(task: tasks.FinetuneTask, work: Path) -> Engine:
    engine = Engine(
        task, task.settings, RANKS, work, journal=Journal(work / "h.csv", NoSink()), pulse=Pulse(None),
        stop=StopRequest(), progress=Progress("", False),
    )  # fmt: skip
    engine.run()
    return engine


def test_it_starts_from_the_pretraining_and_leaves_a_classifier(here: Path) -> None:
    params = ready()
    source = _pretrained(params, Path("outputs/pretrain"))
    task = tasks.FinetuneTask(params, "small", RANKS)
    started = task.model.state_dict()["blocks.0.mlp.fc1.weight"]
    assert torch.equal(started, source.state_dict()["encoder.blocks.0.mlp.fc1.weight"])
    metrics = finetune.run(params, "small")
    assert {"val/top1", "val/top5", "val/loss", "train/loss"} <= metrics.keys()
    about = read_info(Path("outputs/finetune/small"))
    assert (about["dataset"], about["frame_step"]) == ("small", 1)
    model = load_model(Path("outputs/finetune/small"))
    assert model(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 8)
    assert not torch.equal(model.state_dict()["blocks.0.mlp.fc1.weight"], started)
    rows = Path("outputs/finetune/small/history.csv").read_text().splitlines()
    assert sum(row.split(",")[6] != "" for row in rows[1:]) == 2


def test_the_scores_of_a_run_are_those_of_the_weights_that_it_publishes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = ready(
        finetune__init="scratch", finetune__epochs=3, finetune__select="best", finetune__validate_split="val"
    )
    worse_each_time = iter((0.6, 0.4, 0.2))
    true = tasks.FinetuneTask.validate

    def validate(task: tasks.FinetuneTask, *given: object) -> dict[str, float]:
        return true(task, *given) | {"val/top1": next(worse_each_time)}  # type: ignore[arg-type]

    def clips(params: Params, name: str, split: str, **how: object) -> ClipDataset:
        return labelled_clips(params, name, split.replace("val", "test"), **how)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks, "labelled_clips", clips)
    monkeypatch.setattr(tasks.FinetuneTask, "validate", validate)
    work = here / "work"
    work.mkdir()
    job = TrainingJob("finetune", "small", "cpu", params.model_dump(mode="json"), str(here / "spool"))
    train(job, work, RANKS, Pulse(None), StopRequest())
    metrics = json.loads((work / "final" / "metrics.json").read_text())
    assert metrics["val/top1"] == 0.6


def test_from_scratch_needs_no_weights(here: Path) -> None:
    task = tasks.FinetuneTask(ready(finetune__init="scratch"), "small", RANKS)
    batch = next(iter(task.loader.epoch(0)))
    assert torch.isfinite(task.loss(task.model, batch, 0))


def test_missing_weights_name_the_cure(here: Path) -> None:
    with pytest.raises(InputError, match=r"outputs/pretrain/model.safetensors does not exist.*'scratch'"):
        finetune.run(ready(), "small")


def test_weights_of_another_size_are_refused(here: Path) -> None:
    params = ready(finetune__init="elsewhere")
    small = timm.create_model("everest_pretrain_small_patch16_224", img_size=32, num_frames=8, keep_ratio=0.5)
    save_model(small, Path("elsewhere"), {})
    with pytest.raises(InputError, match=r"elsewhere: weights do not fit the model"):
        tasks.FinetuneTask(params, "small", RANKS)


def test_mixing_an_odd_number_of_videos_is_refused_before_the_first_step(here: Path) -> None:
    params = ready(finetune__init="scratch", finetune__cutmix=1.0, finetune__batch=1, finetune__repeated_augmentation=2)
    with pytest.raises(InputError, match=r"pairs of clips.* is 1 at a time.*Cure: a batch that is a multiple of 2"):
        tasks.FinetuneTask(params, "small", RANKS)


def test_validation_counts_every_video_once(here: Path) -> None:
    params = ready(finetune__init="scratch", finetune__batch=4)
    task = tasks.FinetuneTask(params, "small", RANKS)
    rows = [int(i) for batch in task.validation.epoch(0) for i in batch.index_B]
    assert sorted(rows) == list(range(6))
    task.model.eval()
    with torch.no_grad():
        seen: list[int] = []
        first = task.validate(0, True, lambda: seen.append(1))
        assert first == task.validate(1, True, lambda: None)
        assert len(seen) == 2


@pytest.mark.parametrize("head", ["attentive", "places"])
def test_probes_train_several_rates_at_once_over_a_frozen_encoder(here: Path, head: str) -> None:
    params = ready(finetune__frozen=True, finetune__head=head, finetune__base_lr=0.1)
    _pretrained(params, Path("outputs/pretrain"))
    task = tasks.FinetuneTask(params, "small", RANKS)
    assert isinstance(task.model, Probes)
    before = task.model.classifier.blocks[0].mlp.fc1.weight.clone()
    rates = {group["lr_scale"] for group in task.groups()}
    assert rates == set(LR_FACTORS)
    engine = _train(task, here / "work")
    assert torch.equal(before, task.model.classifier.blocks[0].mlp.fc1.weight)
    heads = [head.head.weight for head in task.model.heads]
    assert all(not torch.equal(heads[0], other) for other in heads[1:])
    task.export(engine.result(), here / "out")
    chosen = load_model(here / "out").state_dict()["head.weight"]
    assert any(torch.equal(chosen, head) for head in heads)


def test_every_probe_learns_as_if_it_were_alone(here: Path) -> None:
    params = ready(finetune__frozen=True, finetune__init="scratch")
    task = tasks.FinetuneTask(params, "small", RANKS)
    assert isinstance(task.model, Probes)
    batch = next(iter(task.loader.epoch(0)))
    task.loss(task.model, batch, 0).backward()
    together = task.model.heads[0].head.weight.grad.clone()
    task.model.zero_grad()
    clip_BCTHW, targets_BK = task.transform(batch, "cpu")
    torch.nn.functional.cross_entropy(task.model(clip_BCTHW)[0], targets_BK).backward()
    assert torch.allclose(together, task.model.heads[0].head.weight.grad, atol=1e-7)


def test_official_weights_are_converted_and_fine_tuned(here: Path) -> None:
    import argparse

    from models.convert import to_official
    from pipeline.inference.convert import convert

    torch.manual_seed(9)
    published = timm.create_model("everest_pretrain_tiny_patch16_224", decoder_depth=2)
    arguments = argparse.Namespace(mcm_ratio=0.7, mask_ratio=0.9)
    torch.save({"model": to_official(published.state_dict()), "args": arguments}, "checkpoint-3199.pth")
    convert(Path("checkpoint-3199.pth"), Path("weights/official"))
    params = ready(finetune__init="weights/official")
    started = tasks.FinetuneTask(params, "small", RANKS).model.state_dict()["blocks.2.attn.proj.weight"]
    assert torch.equal(started, published.state_dict()["encoder.blocks.2.attn.proj.weight"])
    metrics = finetune.run(params, "small")
    assert metrics["train/steps"] == 2 * (18 // 8)
    tuned = load_model(Path("outputs/finetune/small")).state_dict()["blocks.2.attn.proj.weight"]
    assert not torch.equal(tuned, started)
    assert torch.allclose(tuned, started, atol=0.2)
