"""How soon is a pre-training that is broken on purpose named? On the demo's videos of motions.

    python scripts/monitor_broken.py FOLDER [--until 0.1] [--only NAME ...]

writes the demo's videos of motions and their cache into FOLDER, begins each pre-training below, pauses it after a share
of its steps, and prints at which share which alarm was raised. Each is the demo's on one of its two corpora: 768 steps
of 64 clips, one rank, the monitor as in the recipe (2 % of the time). What is finished is kept in FOLDER/broken.jsonl.
docs/monitoring.md has the results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.cache.read import Cache
from pipeline.errors import EverestError, Paused
from pipeline.monitor.record import read_record
from pipeline.params import Params, load_params
from pipeline.system.processes import PAUSE_AT

ROOT = Path(__file__).resolve().parent.parent
#: What differs from the demo's recipe in all of them.
BASE: dict[str, object] = {
    "compute.ranks": 1, "pretrain.corpus": ["motion"], "pretrain.epochs": 48, "pretrain.warmup_epochs": 2.0,
}  # fmt: skip
#: Variant -> what differs beside.
SETTINGS: dict[str, dict[str, object]] = {
    "as it is": {},
    "learning rate x 100": {"pretrain.base_lr": 0.8},
    "learning rate / 10,000": {"pretrain.base_lr": 8e-7, "pretrain.min_lr": 0.0},
    "masks that hide almost nothing": {"pretrain.keep_ratio": 0.9, "pretrain.visible_ratio": 0.88},
}
U8 = npt.NDArray[np.uint8]
#: What reads a clip's frames: (cache, row, frame numbers, where to).
Fill = Callable[[Cache, int, npt.ArrayLike, U8], None]


def one_colour(real: Fill) -> Fill:
    def fill(cache: Cache, row: int, frames: npt.ArrayLike, target_THWC: U8) -> None:
        target_THWC[:] = 40 + row % 160

    return fill


def still(real: Fill) -> Fill:
    def fill(cache: Cache, row: int, frames: npt.ArrayLike, target_THWC: U8) -> None:
        real(cache, row, frames, target_THWC)
        target_THWC[:] = target_THWC[:1].copy()

    return fill


def always_the_same(real: Fill) -> Fill:
    def fill(cache: Cache, row: int, frames: npt.ArrayLike, target_THWC: U8) -> None:
        real(cache, 0, np.arange(len(target_THWC)), target_THWC)

    return fill


def noise(real: Fill) -> Fill:
    def fill(cache: Cache, row: int, frames: npt.ArrayLike, target_THWC: U8) -> None:
        numbers = np.random.default_rng([row, *np.asarray(frames).tolist()])
        target_THWC[:] = numbers.integers(0, 256, target_THWC.shape, dtype=np.uint8)

    return fill


@contextlib.contextmanager
def targets_of_others() -> Iterator[None]:
    """Each clip is compared with the pixels of the next one of its batch."""
    from models.autoencoder import EverestAutoencoder

    real = EverestAutoencoder.compare

    def compare(self: EverestAutoencoder, clip_BCTHW: torch.Tensor, *rest: object) -> torch.Tensor:
        return real(self, clip_BCTHW.roll(1, 0), *rest)  # type: ignore[arg-type]

    with mock.patch.object(EverestAutoencoder, "compare", compare):
        yield


@contextlib.contextmanager
def dead_encoder() -> Iterator[None]:
    """The encoder's last norm gives the same for every token, and does not learn."""
    from models.coders import Encoder

    real = Encoder.__init__

    def init(self: Encoder, *arguments: object, **named: object) -> None:
        real(self, *arguments, **named)  # type: ignore[arg-type]
        for parameter in self.norm.parameters():
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_(False)

    with mock.patch.object(Encoder, "__init__", init):
        yield


@contextlib.contextmanager
def stalled_loader() -> Iterator[None]:
    """Each batch comes as late as the step before it took: half of the time is waiting."""
    from pipeline.data.clips.loader import ClipLoader

    real = ClipLoader.epoch

    def epoch(self: ClipLoader, *arguments: int, **named: int) -> Iterator[object]:
        given = time.perf_counter()
        for batch in real(self, *arguments, **named):
            if self.shuffle:  # the training's; looks are not slowed down
                time.sleep(min(time.perf_counter() - given, 5.0))
            yield batch
            given = time.perf_counter()

    with mock.patch.object(ClipLoader, "epoch", epoch):
        yield


def reads(change: Callable[[Fill], Fill]) -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(Cache, "fill", change(Cache.fill))


#: Variant -> what is broken while it trains, beside or in place of settings.
FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "clips of one colour": lambda: reads(one_colour),
    "clips that stand still": lambda: reads(still),
    "one clip everywhere": lambda: reads(always_the_same),
    "noise in place of videos": lambda: reads(noise),
    "targets of another clip": targets_of_others,
    "an encoder that gives one feature": dead_encoder,
    "a loader that half of a step waits for": stalled_loader,
}
VARIANTS = (*SETTINGS, *FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until", type=float, default=0.1, help="share of the steps after which each is paused")
    parser.add_argument("--only", nargs="*", default=VARIANTS, help="of these variants")
    parser.add_argument("--variant", help="this one, in this process")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(chosen.folder)
    if chosen.variant:
        return variant(chosen.variant, chosen.until)
    prepare()
    for name in chosen.only:
        if name not in {str(row["variant"]) for row in results()}:
            command = [sys.executable, str(Path(__file__).resolve()), ".", "--until", str(chosen.until)]
            subprocess.run([*command, "--variant", name], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    sys.stdout.write(table(results()) + "\n")
    return 0


def params_of(name: str) -> Params:
    changes = BASE | SETTINGS.get(name, {})
    return load_params(ROOT / "recipes" / "demo.yaml", changes)


def prepare() -> None:
    """Videos, cache and corpus, where they are not there yet."""
    from pipeline import layout
    from pipeline.stages import corpus, download, preprocess

    params = params_of("as it is")
    if not layout.corpus_file("motion").exists():
        for stage in (download, preprocess, corpus):
            stage.run(params, "motion")


def variant(name: str, until: float) -> int:
    """Begin one pre-training, pause it, and append which alarms were raised when."""
    from pipeline.distributed.groups import Ranks, choose_device
    from pipeline.distributed.heartbeat import Pulse
    from pipeline.system.processes import StopRequest
    from pipeline.training.worker import TrainingJob, train

    work = Path("broken") / name.replace(" ", "-").replace("/", "over")
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    os.environ[PAUSE_AT] = str(until)
    job = TrainingJob("pretrain", None, "auto", params_of(name).model_dump(mode="json"), str(work / "spool.jsonl"))
    ended = ""
    with FAULTS.get(name, contextlib.nullcontext)():
        try:
            train(job, work, Ranks(0, 1, 0, choose_device("auto")), Pulse(None), StopRequest())
        except Paused:
            pass
        except EverestError as error:  # the engine has named it itself
            ended = str(error)
    record = read_record(work)
    row: dict[str, object] = {"variant": name, "ended": ended}
    if record is not None:
        alarms = sorted(record.alarms, key=lambda alarm: alarm.step)
        row |= {"checked": record.checked, "steps": record.steps, "looks": [look.step for look in record.looks]}
        row["alarms"] = [[alarm.rule, alarm.step, alarm.holds, alarm.sentence] for alarm in alarms]
    with Path("broken.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return 0


def results() -> list[dict[str, object]]:
    path = Path("broken.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(rows: list[dict[str, object]]) -> str:
    """What was named, and after which share of the steps, as Markdown."""
    lines = ["| broken on purpose | named | after |", "|---|---|---|"]
    for row in rows:
        alarms, steps = row["alarms"], row["steps"]
        assert isinstance(alarms, list)
        assert isinstance(steps, int)
        said = [f"{rule}{'' if holds else ' (passed)'}" for rule, _, holds, _ in alarms]
        shares = [f"{100 * step / steps:.1f} %" for _, step, _, _ in alarms]
        quiet = f"nothing in {100 * int(str(row['checked'])) / steps:.0f} % of the steps"
        lines.append(f"| {row['variant']} | {', '.join(said) or quiet} | {', '.join(shares) or '–'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
