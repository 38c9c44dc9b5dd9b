"""What each part of versions.yaml gives on small fixed input: whole numbers by their hash, others to a tolerance.

`python -m tests.golden` records it in golden.json, after the part's number was raised. Nothing here depends on the
processor: floats are compared, not hashed, and pictures by the means of their blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).with_name("golden.json")
ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "kit"))  # as pytest has it, for `python -m tests.golden`
#: Whole numbers and words; floats; how far a float may be off.
Result = tuple[list[Any], Any, float]


def drawing() -> Result:
    from pipeline.data.sources.generate import _DRAW, _DRAW_SCENE, plan
    from pipeline.params import GeneratedSource, SceneParams

    labels, means = [], []
    for task, draw in _DRAW.items():
        source = GeneratedSource(kind="generated", task=task, seed=3, train=9, val=1, test=1, frames=8, size=32)
        labels += [[Path(video.path).name, video.split, video.label] for video in plan(source)]
        means += [blocks(draw(np.random.default_rng(5), label, 8, 32)[::7]) for label in (0, 1)]
    scene = SceneParams(mover_share=0.2, camera=0.5, noise=0.01, distractors=1)
    for film in _DRAW_SCENE.values():
        means += [blocks(film(np.random.default_rng(5), label, 8, 32, scene)[::7]) for label in (0, 1)]
    return labels, means, 0.5


def ingest() -> Result:
    import varying_rates

    from pipeline.data.ingest.measure import measure

    path = video(frames=20)
    cut = path.with_name("cut.mp4")
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = []
    for file in (path, cut, varying_rates.write(path.with_name("varying.mkv"))):
        measurement = measure(file)
        facts.append(
            [
                measurement.frames_decoded,
                measurement.width,
                measurement.height,
                measurement.rotation,
                measurement.repeated_run,
                measurement.reason,
                round(measurement.fps, 3),
            ]
        )
    return facts, [], 0


def reading() -> Result:
    benchmark()
    from pipeline.data.clips.dataset import open_source

    source = open_source(small().params(clip__source="videos", pretrain__frame_selection__mode="none"), "small")
    sizes = [[source.num_frames(row), *source.size(row), source.label(row)] for row in range(len(source))]
    return sizes, [blocks(source.frames(row, [7, 0, 18, 7])) for row in (0, 3)], 1.0


def cache() -> Result:
    built = cached()
    index = [[built.num_frames(row), *built.size(row), built.label(row), built.split(row)] for row in range(len(built))]
    described = [built.info[part]["params"] for part in ("frames", "maps")]
    maps = np.asarray(built.maps(0), dtype=np.float64)
    # Distances of equal frames are zero; the others span orders of magnitude.
    return [index, described, built.grid], [blocks(built.frames(0, [0, 19])), np.log1p(maps.mean(axis=1))], 1.0


def corpus() -> Result:
    import pyarrow.parquet as pq

    from pipeline import layout
    from pipeline.stages import corpus as stage

    cached()
    counts = stage._run("small", 1)
    return [counts, pq.read_table(layout.corpus_file("small")).drop(["sha256"]).to_pylist()], [], 0


def sampling() -> Result:
    from pipeline.data import sampling as s

    places = s.uniforms(7, 2, range(6), "place", 3)
    clips = [
        clip.tolist()
        for length in (5, 20, 100)
        for clip in (
            s.uniform_clip(length, 8, 3, 0.7),
            s.centre_clip(length, 8, 3),
            s.candidate_clip(length, 8, 3, 0.4, oversample=1.5, window="grow"),
            s.candidate_clip(length, 8, 3, 0.4, oversample=1.5, window="fixed"),
        )
    ]
    return [(places * 2**40).astype(np.int64).tolist(), s.epoch_order(1, 2, 40, True).tolist(), clips], [], 0


def augmentation() -> Result:
    import torch

    from pipeline.data.pixels.transforms import FinetuneTransform, PretrainTransform

    boxes, pictures = [], []
    recipe: dict[str, Any] = {"crop_scale": [0.3, 1.0], "crop_ratio": [0.75, 1.33], "label_smoothing": 0.1}
    for more in ({"flip": 0.5}, {"rand_augment": "m7-n4-mstd0.5-inc1"}, {"mixup": 0.8}, {"cutmix": 1.0},
                 {"random_erasing": 1.0}):  # fmt: skip
        off = {"flip": 0.0, "rand_augment": None, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}
        clip, targets = FinetuneTransform(32, 8, **(recipe | off | more))(batch(), torch.device("cpu"))
        boxes.append([list(clip.shape), list(targets.shape)])
        # Erased places are noise; their mean over the clip is not.
        pictures += [clip.mean(dim=(2, 3, 4)).numpy(), targets.numpy()]
    clip, _ = PretrainTransform(32, [1.0, 0.75], 0.5)(batch(), torch.device("cpu"))
    return [boxes, list(clip.shape)], [*pictures, clip.mean(dim=(2, 3)).numpy()], 0.02


def views() -> Result:
    import torch

    from pipeline.data.pixels.transforms import EvalTransform
    from pipeline.evaluation.views import video_views

    pictures = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    asked: list[Any] = []

    def read(numbers: Any) -> Any:
        asked.append(list(map(int, numbers)))
        return pictures[numbers]

    seen = video_views(read, 40, frames=8, step=2, segments=3, crops=3)
    digest = hashlib.sha256(np.ascontiguousarray(seen).tobytes()).hexdigest()
    clip, _ = EvalTransform(32)(batch(), torch.device("cpu"))
    return [asked, list(seen.shape), digest], clip.mean(dim=2)[:, :, ::8, ::8].numpy(), 0.02


def selection() -> Result:
    import torch

    from models.frames import choose_slots
    from models.selection import Grid
    from models.strategies import pretraining_rules, token_budget

    def shuffled(count: int, seed: int) -> torch.Tensor:
        order = [np.random.default_rng(seed + row).permutation(count) for row in range(3)]
        return torch.from_numpy(np.stack(order) / count).float()

    grid, kept = Grid(4, 4, 4), []
    # By name: a strategy more changes nothing for those that there were.
    for name in ("everest", "tube", "random", "running_cell"):
        split, _ = pretraining_rules(name)
        budget = token_budget(name, grid, 0.4, 0.15)
        outcome = split(shuffled(grid.tokens, 1), shuffled(grid.tokens, 9), grid, budget)
        kept.append([name, list(budget), outcome.visible_BV.tolist(), outcome.reconstruct_BR.tolist()])
    distances = shuffled(6 * 16, 4).reshape(3, 6, 16)
    return [kept, choose_slots(distances, 4, 0.5, shuffled(6, 2)).tolist()], [], 0


def networks() -> Result:
    import timm
    import torch

    import models  # noqa: F401

    torch.manual_seed(11)
    common = {"img_size": 32, "num_frames": 8, "keep_ratio": 0.5}
    encoder = timm.create_model("everest_pretrain_tiny_patch16_224", visible_ratio=0.25, decoder_depth=1, **common)
    classifier = timm.create_model("everest_tiny_patch16_224", num_classes=5, **common)
    clip = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 3, 8, 32, 32))).float()
    noise = torch.from_numpy(np.random.default_rng(3).random((2, 16))).float()
    shapes = [[name, list(p.shape)] for m in (encoder, classifier) for name, p in m.state_dict().items()]
    spread = [p.float().std(unbiased=False).item() for p in classifier.state_dict().values()]
    with torch.no_grad():
        return shapes, [[encoder(clip, noise_BN=noise).item()], classifier.eval()(clip).flatten().numpy(), spread], 1e-3


def optimisation() -> Result:
    import timm
    import torch

    import models  # noqa: F401
    from pipeline.training.optim import Cosine, adamw, parameter_groups, set_lr
    from pipeline.training.probes import Probes

    rate = Cosine.of(1e-3, 1e-5, 128, 2.0, 10, 7)
    model = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=8, num_classes=5)
    probe = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=8, num_classes=5, head="attentive")
    groups = [*parameter_groups(model, 0.05, 0.75), *Probes(probe).parameter_groups(0.05)]
    named = [[group["names"], round(group["weight_decay"], 6), round(group["lr_scale"], 6)] for group in groups]
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw([{"params": [weight], "names": ["w"], "weight_decay": 0.1, "lr_scale": 0.5}], (0.9, 0.95), 1e-8)
    for step in range(5):
        set_lr(optimizer, rate(step + 14) * 100)
        weight.grad = torch.tensor([0.3, -0.1]) * (step + 1)
        optimizer.step()
    return named, [[1e3 * rate(step) for step in range(0, 70, 9)], weight.detach().numpy()], 1e-4


def scoring() -> Result:
    from pipeline.evaluation.calibration import fit_temperature
    from pipeline.evaluation.metrics import average_views, scores, several_scores

    rng = np.random.default_rng(8)
    probability = np.stack([average_views(rng.standard_normal((3, 8))) for _ in range(50)])
    label = rng.integers(0, 8, 50)
    metrics = scores(probability, label, 52, 200, 4)
    several = several_scores(rng.random((50, 4)), rng.random((50, 4)) < 0.1, 52, 200)
    values = [[found[name] for name in sorted(found)] for found in (metrics, several)]
    return [sorted(metrics), sorted(several)], [*values, [fit_temperature(probability, label)]], 1e-6


def baselines() -> Result:
    from pipeline.evaluation.baselines import Clips, small_grey
    from pipeline.evaluation.baselines import baselines as score

    rng = np.random.default_rng(6)
    labels = np.arange(60) % 3
    pictures = rng.random((60, 4, 16, 16), dtype=np.float32) * 0.2
    pictures += (labels[:, None] * np.arange(4) / 8)[..., None, None].astype(np.float32)
    parts = [Clips(pictures[first::2], labels[first::2]) for first in (0, 1)]
    results = score(parts[0], parts[1], None, draws=200)
    small = small_grey(rng.integers(0, 255, (2, 37, 52, 3), dtype=np.uint8))
    return [result.key for result in results], [[result.top1 for result in results], small[:, ::5, ::5]], 0.05


PARTS: dict[str, Callable[[], Result]] = {
    "drawing": drawing, "ingest": ingest, "reading": reading, "cache": cache, "corpus": corpus, "sampling": sampling,
    "augmentation": augmentation, "views": views, "selection": selection, "networks": networks,
    "optimisation": optimisation, "scoring": scoring, "baselines": baselines,
}  # fmt: skip


def result(part: str) -> dict[str, Any]:
    """What a part gives now: a hash, floats and their tolerance."""
    with temporary_folder():
        exact, floats, tolerance = PARTS[part]()
    text = json.dumps(exact, sort_keys=True)
    close = [round(float(value), 6) for values in floats for value in np.ravel(values)]
    return {"exact": hashlib.sha256(text.encode()).hexdigest(), "close": close, "tolerance": tolerance}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are equal within the tolerance."""
    if one["exact"] != other["exact"] or len(one["close"]) != len(other["close"]):
        return False
    return bool(np.allclose(one["close"], other["close"], rtol=0, atol=one["tolerance"]))


def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    return content


def record(versions: dict[str, int]) -> list[str]:
    """Record what changed, where the version was raised; the parts where it was not."""
    before, after, refused = recorded(), {}, []
    for part, version in versions.items():
        old, now = before.get(part), result(part)
        if old and not same(old, now) and old["version"] >= version:
            refused.append(part)
        # What is equal stays as it is recorded: another processor's last digits are no change.
        after[part] = old if old and same(old, now) and old["version"] == version else {"version": version, **now}
    if not refused:
        lines = [f" {json.dumps(part)}: {json.dumps(entry)}" for part, entry in after.items()]
        RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return refused


def blocks(pictures: np.ndarray) -> np.ndarray:
    """Means over 16 x 16 pixels of frames [T, H, W, 3]."""
    frames, height, width, _ = pictures.shape
    return pictures.reshape(frames, height // 16, 16, width // 16, 16, 3).mean(axis=(2, 4, 5))


def small() -> Any:
    folder = str(ROOT / "tests" / "pipeline" / "data")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import small_benchmark

    return small_benchmark


def video(frames: int) -> Path:
    from pipeline.data.video import write_video

    path = Path("clip.mp4")
    write_video(path, small().moving_frames(1, frames), fps=12)
    return path


def benchmark() -> None:
    small().make(count=4)


def cached() -> Any:
    from pipeline import layout
    from pipeline.data.cache.publish import build, publish, store_dir, units_of
    from pipeline.data.cache.read import Cache

    benchmark()
    params, store, final = small().params(), store_dir("small"), layout.cache_dir("small")
    units = units_of(params, "small")
    build(units, store, 1)
    publish("small", units, store, final)
    return Cache.open(final)


def batch() -> Any:
    import torch

    from pipeline.data.batch import Batch

    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 2, 48, 64, 3), dtype=np.uint8))
    number = torch.arange(4)
    return Batch(pixels, torch.tensor([(48, 64)] * 4), number, number, number, torch.zeros(4, 2).long(), 1, 3)


@contextlib.contextmanager
def temporary_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main() -> int:
    from pipeline.params.declared import read_versions

    refused = record(read_versions())
    for part in refused:
        sys.stderr.write(f"error: {part} gives other results; raise its number in versions.yaml first.\n")
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
