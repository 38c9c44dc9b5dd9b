"""Recipes: complete params files in recipes/, and how each differs from what was published.

The published numbers stand here, apart from the recipes, so that a recipe cannot drift from them unnoticed.
They are those of EVEREST (arXiv 2211.10636) and VideoMAE (arXiv 2203.12602) as released.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TypedDict

from pipeline.errors import InputError
from pipeline.params import Params, flatten, load_params
from pipeline.system.files import write_text

#: Values of params.yaml by their dotted keys; only compared here, whatever they are.
Settings = dict[str, object]

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
PARAMS = Path("params.yaml")

#: What all published recipes share. Learning rates are per 256 clips.
SHARED: Settings = {
    "clip.frames": 16,
    "clip.resolution": 224,
    "pretrain.size": "base",
    "pretrain.decoder_depth": 4,
    "pretrain.warmup_epochs": 40.0,
    "pretrain.min_lr": 1e-5,
    "pretrain.betas": [0.9, 0.95],
    "pretrain.eps": 1e-8,
    "pretrain.weight_decay": 0.05,
    "pretrain.clip_grad": None,
    "pretrain.scales": [1.0, 0.875, 0.75, 0.66],
    "pretrain.flip": 0.0,
    "pretrain.repeated_augmentation": 1,
    "finetune.warmup_epochs": 5.0,
    "finetune.min_lr": 1e-6,
    "finetune.betas": [0.9, 0.999],
    "finetune.eps": 1e-8,
    "finetune.weight_decay": 0.05,
    "finetune.clip_grad": None,
    "finetune.head": "mean",
    "finetune.frozen": False,
    "finetune.train": "all",
    "finetune.label_smoothing": 0.1,
    "finetune.rand_augment": "m7-n4-mstd0.5-inc1",
    "finetune.random_erasing": 0.25,
    "finetune.crop_scale": [0.08, 1.0],
    "finetune.crop_ratio": [0.75, 1.33],
    "finetune.flip": 0.5,
}
EVEREST: Settings = {
    "pretrain.strategy": "everest",
    "pretrain.keep_ratio": 0.3,
    "pretrain.visible_ratio": 0.1,
    "pretrain.frame_selection.mode": "online",
    "pretrain.frame_selection.oversample": 1.5,
    "finetune.strategy": "everest",
    "finetune.keep_ratio": 0.6,
}
VIDEOMAE: Settings = {
    "pretrain.strategy": "tube",
    "pretrain.frame_selection.mode": "none",
    "finetune.strategy": "none",
    "finetune.keep_ratio": 1.0,
}


def _pretrain(base_lr: float, batch: int, epochs: int, frame_step: int, **more: object) -> Settings:
    settings = {"base_lr": base_lr, "batch": batch, "epochs": epochs, **more}
    return {f"pretrain.{key}": value for key, value in settings.items()} | {"data.frame_step": frame_step}


def _finetune(
    base_lr: float, batch: int, repeated: int, epochs: int, drop_path: float, layer_decay: float,
    mixup: float, cutmix: float, segments: int, fc_dropout: float = 0.0, **more: object,
) -> Settings:  # fmt: skip
    settings = {
        "base_lr": base_lr, "batch": batch, "repeated_augmentation": repeated, "epochs": epochs,
        "drop_path": drop_path, "layer_decay": layer_decay, "mixup": mixup, "cutmix": cutmix,
        "fc_dropout": fc_dropout, **more,
    }  # fmt: skip
    views = {"evaluate.segments": segments, "evaluate.crops": 3}
    return {f"finetune.{key}": value for key, value in settings.items()} | views


#: recipe -> dotted key -> published value. `data.` and stage keys are those of the recipe's benchmark. A key
#: that is absent for a recipe was not published for it.
PUBLISHED: dict[str, Settings] = {
    "ucf101": SHARED | EVEREST | _pretrain(1e-3, 192, 3200, 4)
    | _finetune(1e-3, 128, 1, 100, 0.1, 0.75, 0.0, 0.0, 5),
    "hmdb51": SHARED | EVEREST | _pretrain(1e-3, 192, 4800, 2)
    | _finetune(1e-3, 128, 1, 50, 0.1, 0.75, 0.0, 0.0, 10),
    "k400": SHARED | EVEREST,
    "ssv2": SHARED | EVEREST | {"finetune.flip": 0.0},
    "oscc": SHARED | EVEREST,
    "videomae_ucf101": SHARED | VIDEOMAE | _pretrain(3e-4, 192, 3200, 4, visible_ratio=0.25)
    | _finetune(5e-4, 128, 2, 100, 0.2, 0.7, 0.8, 1.0, 5, fc_dropout=0.5),
    "videomae_hmdb51": SHARED | VIDEOMAE,
    "videomae_k400": SHARED | VIDEOMAE | _pretrain(1.5e-4, 2048, 1600, 4, visible_ratio=0.1)
    | _finetune(5e-4, 384, 2, 75, 0.1, 0.75, 0.8, 1.0, 5),
    "videomae_ssv2": SHARED | VIDEOMAE | _pretrain(1.5e-4, 2048, 2400, 2, visible_ratio=0.1)
    | _finetune(5e-4, 384, 2, 30, 0.1, 0.75, 0.8, 1.0, 2, flip=0.0),
    "videomae_oscc": SHARED | VIDEOMAE,
}  # fmt: skip
#: Keys that change the result, so that a value without a published counterpart is worth naming.
MATTERS = (
    *sorted(PUBLISHED["ucf101"]),
    "pretrain.frame_selection.window",
    "pretrain.precision",
    "finetune.precision",
    "finetune.ema_decay",
    "pretrain.ema_decay",
    "seed",
)

#: What stands for a published value where there is none.
NOT_STATED = "not stated"


class Deviation(TypedDict):
    """A key whose value in a recipe (`ours`) is not the published one (`paper`), and the benchmarks it is for."""

    benchmark: str
    key: str
    paper: object
    ours: object
    note: str


def names() -> list[str]:
    """All recipes, the demo first."""
    return sorted(
        (path.stem for path in RECIPES.glob("*.yaml")),
        key=lambda name: (name != "demo", name.startswith("videomae"), name),
    )


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        InputError: there is none of that name.
    """
    path = RECIPES / f"{name}.yaml"
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.3)
        cure = f"did you mean {near[0]!r}?" if near else "choose one of them."
        raise InputError(f"recipe {name!r} does not exist; there are: {', '.join(names())}. Cure: {cure}")
    return path


def list_recipes() -> list[dict[str, str | int]]:
    """A row per recipe: what is trained on what, for how long, with which masking."""
    rows: list[dict[str, str | int]] = []
    for name in names():
        params = load_params(recipe_path(name))
        rows.append(
            {
                "recipe": name,
                "benchmarks": ", ".join(params.benchmarks),
                "size": params.pretrain.size,
                "strategy": params.pretrain.strategy,
                "pretrain_epochs": params.pretrain.epochs,
                "pretrain_batch": params.pretrain.batch,
                "finetune_epochs": params.finetune.epochs,
                "deviations": sum(row["paper"] != NOT_STATED for row in diff_recipe(name)),
            }
        )
    return rows


def show_recipe(name: str) -> str:
    """A recipe's text, comments and all."""
    return recipe_path(name).read_text(encoding="utf-8")


def edits() -> str:
    """What speaks for edits in params.yaml: no recipe's own text, no text at all, or unreadable; else empty.

    Raises:
        InputError: a folder is in its place.
    """
    if PARAMS.is_dir():
        raise InputError(f"{PARAMS} is a folder, expected a file. Cure: move it away.")
    try:
        own = PARAMS.read_bytes() in {show_recipe(name).encode() for name in names()}
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{PARAMS} cannot be read ({error.strerror}): it may hold values of yours"
    return "" if own else f"{PARAMS} differs from every recipe: it holds values of yours"


def use_recipe(name: str, force: bool = False) -> str:
    """Write a recipe to params.yaml in the current folder; returns what was done.

    Raises:
        InputError: params.yaml holds edits of one's own and `force` is not set.
    """
    text = show_recipe(name)
    edited = edits()
    if not edited and PARAMS.exists() and PARAMS.read_bytes() == text.encode():
        return f"params.yaml holds recipe {name} already."
    if edited and not force:
        raise InputError(f"{edited}, which would be lost. Cure: keep a copy, then `everest recipe use {name} --force`.")
    write_text(PARAMS, text)
    return f"params.yaml now holds recipe {name}. `everest recipe diff` names its deviations."


def diff_recipe(name: str | None = None) -> list[Deviation]:
    """Each deviation of a recipe (or of params.yaml) from the published one, and what publications leave open.

    The demo, and any params.yaml of another name, is compared with the recipe of its masking strategy for UCF101.
    """
    params = load_params(PARAMS if name is None else recipe_path(name))
    reference = _reference(params)
    rows: dict[tuple[str, str], Deviation] = {}
    for benchmark in params.benchmarks:
        settings = _settings(params, benchmark)
        for key in MATTERS:
            paper, ours = PUBLISHED[reference].get(key, NOT_STATED), settings[key]
            if paper == ours or (paper == NOT_STATED and ours is None):
                continue
            note = "ours" if paper == NOT_STATED else f"published for {reference}"
            row = rows.setdefault(
                (key, str(ours)), {"benchmark": "", "key": key, "paper": paper, "ours": ours, "note": note}
            )
            row["benchmark"] = f"{row['benchmark']}, {benchmark}".removeprefix(", ")
    return sorted(rows.values(), key=lambda row: (row["paper"] == NOT_STATED, row["key"]))


def _reference(params: Params) -> str:
    if params.recipe in PUBLISHED:
        return params.recipe
    return "videomae_ucf101" if params.pretrain.strategy == "tube" else "ucf101"


def _settings(params: Params, benchmark: str) -> Settings:
    """A benchmark's resolved values by the keys of PUBLISHED."""
    shared = {"clip": params.clip.model_dump(), "pretrain": params.pretrain.model_dump(), "seed": params.seed}
    return (
        flatten(shared)
        | flatten(params.finetune_of(benchmark), "finetune.")
        | flatten(params.evaluate_of(benchmark), "evaluate.")
        | flatten(params.benchmark(benchmark).data, "data.")
    )
