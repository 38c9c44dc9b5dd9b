"""Sizes (METHOD section 5) and their names in timm's registry.

`timm.create_model("everest_pretrain_base_patch16_224", keep_ratio=0.3)` and
`timm.create_model("everest_base_patch16_224", num_classes=101)` take the keyword arguments of
`EverestAutoencoder` and `EverestClassifier`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, cast

from timm.models import create_model, register_model
from timm.models._features import FeatureGetterNet
from torch import nn

from models.autoencoder import EverestAutoencoder
from models.classifier import EverestClassifier
from models.strategies import STRATEGIES

#: Arguments that say how a model is used.
USED = ("img_size", "num_frames", "num_classes", "strategy", "keep_ratio", "visible_ratio")

M = TypeVar("M", bound=nn.Module)


class Size(NamedTuple):
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int
    decoder_num_heads: int
    decoder_depth: int = 4


SIZES = {
    "tiny": Size(96, 4, 3, 48, 3, 2),  # the demo's
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


def create_classifier(name: str, arguments: Mapping[str, Any]) -> EverestClassifier:
    """`timm.create_model` of a classifier's name."""
    model = create_model(name, **arguments)
    assert isinstance(model, EverestClassifier), f"{name} is no classifier"
    return model


def _autoencoder(name: str, pretrained: bool, **kwargs: Any) -> EverestAutoencoder:
    kwargs, features = _own_arguments(name, pretrained, kwargs)
    size = SIZES[name.split("_")[2]]
    return _features(_remember(EverestAutoencoder(**(size._asdict() | kwargs)), name, kwargs), features)


def _classifier(name: str, pretrained: bool, **kwargs: Any) -> EverestClassifier:
    kwargs, features = _own_arguments(name, pretrained, kwargs)
    size = SIZES[name.split("_")[1]]
    own = {"embed_dim": size.embed_dim, "depth": size.depth, "num_heads": size.num_heads}
    return _features(_remember(EverestClassifier(**(own | kwargs)), name, kwargs), features)


def _features(model: M, features: Mapping[str, Any] | None) -> M:
    """The model, or where `features_only=True` was asked for, timm's wrapper that gives its intermediates."""
    return model if features is None else cast(M, FeatureGetterNet(model, **features))


def _own_arguments(name: str, pretrained: bool, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The model's arguments, and those of timm's `features_only`, where it is asked for."""
    if pretrained:
        raise ValueError(
            f"{name}: pretrained=True has nothing to download. Cure: convert an official checkpoint with "
            "`everest convert-checkpoint` and load it with models.weights.load_model."
        )
    timms = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only", "out_indices")
    features = {"out_indices": kwargs["out_indices"]} if "out_indices" in kwargs else {}
    rest = {key: value for key, value in kwargs.items() if key not in timms}
    return rest, features if kwargs.get("features_only") else None


def _remember(model: M, name: str, kwargs: dict[str, Any]) -> M:
    """What a saved model needs to be built again."""
    vars(model).update(architecture=name, kwargs=written_out(type(model), kwargs))
    return model


def written_out(kind: type[nn.Module], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments that say how a model is used, so that no later default changes an old model."""
    parameters = inspect.signature(kind).parameters
    found = {name: parameters[name].default for name in USED if name in parameters} | dict(kwargs)
    if not STRATEGIES[found["strategy"]].uses_keep_ratio and "keep_ratio" not in kwargs:
        del found["keep_ratio"]
    return found


@register_model
def everest_pretrain_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestAutoencoder:
    return _autoencoder("everest_pretrain_tiny_patch16_224", pretrained, **kwargs)


@register_model
def everest_pretrain_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestAutoencoder:
    return _autoencoder("everest_pretrain_small_patch16_224", pretrained, **kwargs)


@register_model
def everest_pretrain_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestAutoencoder:
    return _autoencoder("everest_pretrain_base_patch16_224", pretrained, **kwargs)


@register_model
def everest_pretrain_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestAutoencoder:
    return _autoencoder("everest_pretrain_large_patch16_224", pretrained, **kwargs)


@register_model
def everest_pretrain_huge_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestAutoencoder:
    return _autoencoder("everest_pretrain_huge_patch16_224", pretrained, **kwargs)


@register_model
def everest_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestClassifier:
    return _classifier("everest_tiny_patch16_224", pretrained, **kwargs)


@register_model
def everest_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestClassifier:
    return _classifier("everest_small_patch16_224", pretrained, **kwargs)


@register_model
def everest_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestClassifier:
    return _classifier("everest_base_patch16_224", pretrained, **kwargs)


@register_model
def everest_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestClassifier:
    return _classifier("everest_large_patch16_224", pretrained, **kwargs)


@register_model
def everest_huge_patch16_224(pretrained: bool = False, **kwargs: Any) -> EverestClassifier:
    return _classifier("everest_huge_patch16_224", pretrained, **kwargs)
