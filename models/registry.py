"""Sizes (METHOD section 5) and their names in timm's registry.

`timm.create_model("everest_pretrain_base_patch16_224", keep_ratio=0.3)` and
`timm.create_model("everest_base_patch16_224", num_classes=101)` take the keyword arguments of
`EverestAutoencoder` and `EverestClassifier`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple, TypedDict, Unpack, cast

from timm.models import create_model, register_model
from timm.models._features import FeatureGetterNet
from torch import nn

from models.autoencoder import EverestAutoencoder
from models.backbone import Backbone
from models.classifier import EverestClassifier
from models.info import ModelArguments
from models.strategies import STRATEGIES

#: Arguments that say how a model is used.
USED = ("img_size", "num_frames", "num_classes", "strategy", "keep_ratio", "visible_ratio")

#: Arguments of `timm.create_model` that it passes on, of which only those of `features_only` say anything here.
TIMMS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only", "out_indices")


class FeatureArguments(TypedDict, total=False):
    """Arguments of timm's wrapper that gives a model's intermediates."""

    out_indices: int | tuple[int, ...]


class TimmArguments(ModelArguments, FeatureArguments, total=False):
    """What timm hands to the function that makes a model: the model's own arguments and TIMMS."""

    pretrained_cfg: object
    pretrained_cfg_overlay: object
    cache_dir: object
    features_only: bool


class Size(NamedTuple):
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_num_heads: int
    decoder_depth: int = 4


SIZES = {
    "tiny": Size(96, 4, 3, 48, 3, 2),  # the recipe drawn's
    "mini": Size(192, 4, 3, 96, 3, 1),  # the demo's
    "small": Size(384, 12, 6, 192, 3),
    "base": Size(768, 12, 12, 384, 6),
    "large": Size(1024, 24, 16, 512, 8),
    "huge": Size(1280, 32, 16, 640, 8),
}


def architecture(size: str, pretrain: bool) -> str:
    """The timm name of a size. Raises ValueError for an unknown one."""
    if size not in SIZES:
        raise ValueError(f"size = {size!r}, expected one of {', '.join(SIZES)}. Cure: choose one of them.")
    return f"everest_{'pretrain_' if pretrain else ''}{size}_patch16_224"


def create_autoencoder(name: str, arguments: ModelArguments) -> EverestAutoencoder:
    """`timm.create_model` of an autoencoder's name."""
    model = create_model(name, **arguments)
    assert isinstance(model, EverestAutoencoder), f"{name} is no autoencoder"
    return model


def create_classifier(name: str, arguments: ModelArguments) -> EverestClassifier:
    """`timm.create_model` of a classifier's name."""
    model = create_model(name, **arguments)
    assert isinstance(model, EverestClassifier), f"{name} is no classifier"
    return model


def _entry_point(name: str, pretrain: bool) -> Callable[..., Backbone]:
    """The function that timm's registry knows by `name`."""
    size = SIZES[name.split("_")[-3]]._asdict()
    defaults = {key: value for key, value in size.items() if pretrain or not key.startswith("decoder_")}
    kind: Callable[..., Backbone] = EverestAutoencoder if pretrain else EverestClassifier

    def make(pretrained: bool = False, **kwargs: Unpack[TimmArguments]) -> Backbone:
        arguments, features = _model_arguments(name, pretrained, kwargs)
        model = kind(**{**defaults, **arguments})
        model.architecture, model.kwargs = name, written_out(type(model), arguments)
        # timm's wrapper that gives a model's intermediates stands for the model.
        return model if features is None else cast(Backbone, FeatureGetterNet(model, **features))

    make.__name__ = make.__qualname__ = name
    return make


def _model_arguments(
    name: str, pretrained: bool, kwargs: TimmArguments
) -> tuple[ModelArguments, FeatureArguments | None]:
    """The model's arguments, and those of timm's `features_only`, where it is asked for."""
    if pretrained:
        raise ValueError(
            f"{name}: pretrained=True has nothing to download. Cure: convert an official checkpoint with "
            "`everest convert-checkpoint` and load it with models.weights.load_model."
        )
    features: FeatureArguments = {"out_indices": kwargs["out_indices"]} if "out_indices" in kwargs else {}
    rest = {key: value for key, value in kwargs.items() if key not in TIMMS}
    return cast(ModelArguments, rest), features if kwargs.get("features_only") else None


def written_out(kind: type[nn.Module], kwargs: ModelArguments) -> ModelArguments:
    """All arguments that say how a model is used, so that no later default changes an old model."""
    parameters = inspect.signature(kind).parameters
    defaults = {name: parameters[name].default for name in USED if name in parameters}
    arguments = cast(ModelArguments, {**defaults, **kwargs})
    if not STRATEGIES[arguments["strategy"]].uses_keep_ratio and "keep_ratio" not in kwargs:
        del arguments["keep_ratio"]
    return arguments


for _size in SIZES:
    for _pretrain in (True, False):
        register_model(_entry_point(architecture(_size, _pretrain), _pretrain))
