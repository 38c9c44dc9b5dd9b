"""Weights between this project, the official EVEREST / VideoMAE files and Hugging Face.

Pure functions over states, which are dictionaries of tensors. Ours carries the official names with the tubelet
embedding as a matrix; Hugging Face splits queries, keys and values and names the blocks in its own way. Nothing is
computed: reshaping, cutting and joining only, so that every round trip is bit-identical.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

import timm
import torch
from torch import Tensor

from models.backbone import Backbone
from models.info import ModelArguments
from models.registry import SIZES, architecture
from models.weights import check_state

State = dict[str, Tensor]
EMBEDDING = "patch_embed.proj.weight"

#: Inside a block: Hugging Face's name, ours. Queries, keys and values are handled apart.
BLOCK_NAMES = (
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
#: Around the blocks, in a pre-training file and in a fine-tuned one: Hugging Face's beginning of a key, ours.
PRETRAIN_NAMES = (
    ("videomae.embeddings.patch_embeddings.projection.", "encoder.patch_embed.proj."),
    ("videomae.encoder.layer.", "encoder.blocks."),
    ("videomae.layernorm.", "encoder.norm."),
    ("decoder.decoder_layers.", "decoder.blocks."),
    ("decoder.norm.", "decoder.norm."),
    ("decoder.head.", "decoder.head."),
    ("encoder_to_decoder.", "encoder_to_decoder."),
    ("mask_token", "mask_token"),
)
FINETUNE_NAMES = (
    ("videomae.embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("videomae.encoder.layer.", "blocks."),
    ("fc_norm.", "fc_norm."),
    ("classifier.", "head."),
)
_BLOCK = re.compile(r"(.*?(?:blocks|layer|decoder_layers)\.\d+\.)(.*)")


def is_pretraining(state: Mapping[str, Tensor]) -> bool:
    """Whether a state of any of the three has a decoder."""
    return any(key.startswith(("decoder.", "encoder_to_decoder.", "mask_token")) for key in state)


def encoder_alone(state: Mapping[str, Tensor]) -> bool:
    """Whether a state in our names is a pre-trained encoder without decoder and head."""
    return bool(state) and all(key.startswith("encoder.") for key in state)


def from_official(state: Mapping[str, Tensor]) -> State:
    """An official state (already out of `model` or `module`) with our shapes; names are the same.

    An encoder alone is found under `encoder.`, `backbone.` or without a prefix, and comes back under `encoder.`.
    """
    state = _unwrapped(state)
    if not is_pretraining(state):
        state = {key.removeprefix("backbone.").removeprefix("encoder."): value for key, value in state.items()}
        if not any(key.startswith(("fc_norm.", "head.", "pool.")) for key in state):
            state = {f"encoder.{key}": value for key, value in state.items()}
    return {key: _flat(key, value) if key.endswith(EMBEDDING) else value for key, value in state.items()}


def _unwrapped(state: Mapping[str, Tensor]) -> State:
    """A state without what DataParallel and torch.compile put before each name, however often."""
    plain = {re.sub(r"^(?:module\.|_orig_mod\.)+", "", key): value for key, value in state.items()}
    if len(plain) < len(state):
        raise ValueError("some weights are there twice, with and without `module.`. Cure: a file with one model.")
    return plain


def _flat(key: str, kernel: Tensor) -> Tensor:
    """The tubelet embedding's kernel [D, 3, 2, 16, 16] as a matrix [D, 1536]."""
    if kernel.ndim not in (2, 5):
        raise ValueError(
            f"{key} has shape {tuple(kernel.shape)}, expected (width, 3, 2, 16, 16), a 3-D convolution over tubelets. "
            "Cure: a checkpoint of a video model with tubelets of 2 frames and 16 x 16 pixels."
        )
    return kernel.flatten(1)


def check_values(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the tensors that are no floating-point numbers, or hold NaN or infinite ones."""
    faults = []
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_meta:
            faults.append(f"{key} is {'without values' if value.is_meta else 'sparse'}")
        elif not value.is_floating_point():
            faults.append(f"{key} holds {str(value.dtype).removeprefix('torch.')}")
        elif bad := int((~value.isfinite()).sum()):
            nan = int(value.isnan().sum())
            faults.append(f"{key} holds {nan} NaN and {bad - nan} infinite of {value.numel()} values")
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise ValueError(
            f"{'; '.join(faults[:6])}{more}, expected finite floating-point weights: the file is damaged, or its "
            "training diverged. Cure: download it again, or take an earlier checkpoint."
        )


def to_official(state: Mapping[str, Tensor], tubelet: int = 2, patch: int = 16) -> State:
    """Our state with the tubelet embedding as the official 3-D convolution kernel [D, 3, 2, 16, 16]."""
    kernel = (-1, tubelet, patch, patch)
    return {key: value.unflatten(1, kernel) if key.endswith(EMBEDDING) else value for key, value in state.items()}


def from_huggingface(state: Mapping[str, Tensor]) -> State:
    """The state of a `VideoMAEForPreTraining` or `VideoMAEForVideoClassification` under our names and shapes.

    Raises ValueError listing the keys that have no counterpart.
    """
    names = PRETRAIN_NAMES if is_pretraining(state) else FINETUNE_NAMES
    ours: State = {}
    for key, value in state.items():
        ours[_rename(key, names, BLOCK_NAMES)] = value
    for key in [key for key in ours if key.endswith("attention.attention.query.weight")]:
        block = key.removesuffix("attention.attention.query.weight")
        parts = [ours.get(f"{block}attention.attention.{part}.weight") for part in ("query", "key", "value")]
        if any(part is None for part in parts):
            raise ValueError(f"{block}attention.attention lacks one of query, key, value. Cure: a whole checkpoint.")
        for part in ("query", "key", "value"):
            del ours[f"{block}attention.attention.{part}.weight"]
        ours[f"{block}attn.qkv.weight"] = torch.cat([part for part in parts if part is not None])
        for name, part in (("q", "query"), ("v", "value")):
            # Files on the hub say q_bias, models in memory query.bias.
            for spelling in (f"{name}_bias", f"{part}.bias"):
                if (bias := ours.pop(f"{block}attention.attention.{spelling}", None)) is not None:
                    ours[f"{block}attn.{name}_bias"] = bias
    unknown = [key for key in ours if ".attention." in key or key.startswith("videomae.")]
    if unknown:
        raise ValueError(
            f"keys without a counterpart: {', '.join(unknown[:12])}. "
            "Cure: VideoMAEForPreTraining or VideoMAEForVideoClassification with mean pooling and q/v bias."
        )
    return {key: _flat(key, value) if key.endswith(EMBEDDING) else value for key, value in ours.items()}


def to_huggingface(state: Mapping[str, Tensor], tubelet: int = 2, patch: int = 16) -> State:
    """Our state under the names of files on the hub (which transformers 4 and 5 load)."""
    names = PRETRAIN_NAMES if is_pretraining(state) else FINETUNE_NAMES
    back = tuple((ours, theirs) for theirs, ours in names)
    block_back = tuple((ours, theirs) for theirs, ours in BLOCK_NAMES)
    theirs: State = {}
    for key, value in to_official(state, tubelet, patch).items():
        name = _rename(key, back, block_back)
        if name.endswith("attn.qkv.weight"):
            block = name.removesuffix("attn.qkv.weight")
            for part, weight in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[f"{block}attention.attention.{part}.weight"] = weight
        else:
            theirs[re.sub(r"attn\.([qv]_bias)$", r"attention.attention.\1", name)] = value
    return theirs


def _rename(key: str, names: tuple[tuple[str, str], ...], block_names: tuple[tuple[str, str], ...]) -> str:
    """The key with its beginning, and inside a block its middle, under the other name; unknown keys stay."""
    for old, new in names:
        if key.startswith(old):
            key = new + key.removeprefix(old)
            break
    match = _BLOCK.fullmatch(key)
    if match is None:
        return key
    block, inner = match.groups()
    for old, new in block_names:
        if inner.startswith(old + "."):
            return block + new + inner.removeprefix(old)
    return key


def describe(state: Mapping[str, Tensor], img_size: int = 224, num_frames: int = 16) -> tuple[str, ModelArguments]:
    """The timm name and arguments of our state, and the check that every key and shape belongs to them.

    Heads cannot be read from weights: they follow from the size (METHOD section 5). Raises ValueError listing
    missing and unknown keys, or naming a width and depth that no size has.
    """
    alone = encoder_alone(state)
    pretrain = alone or is_pretraining(state)
    prefix = "encoder." if pretrain else ""
    embedding = state.get(prefix + EMBEDDING)
    if embedding is None:
        raise ValueError(
            f"no {prefix}{EMBEDDING} among {len(state)} keys, such as {', '.join(list(state)[:3])}. "
            "Cure: a checkpoint of EVEREST, VideoMAE or this project."
        )
    width, depth = len(_flat(prefix + EMBEDDING, embedding)), _depth(state, prefix)
    sizes = [name for name, size in SIZES.items() if (size.embed_dim, size.depth) == (width, depth)]
    if not sizes:
        raise ValueError(
            f"width {width} with {depth} blocks is no size of {', '.join(SIZES)}. Cure: a whole checkpoint of one."
        )
    kwargs: ModelArguments = {"img_size": img_size, "num_frames": num_frames}
    if pretrain and not alone:
        kwargs["decoder_depth"] = _depth(state, "decoder.")
    elif not pretrain:
        head = state.get("head.weight")
        kwargs["num_classes"] = head.shape[0] if head is not None and head.ndim else 0
        if any(key.startswith("pool.") for key in state):
            kwargs["head"] = "attentive" if "pool.query" in state else "places"
    name = architecture(sizes[0], pretrain)
    with torch.device("meta"):
        model = timm.create_model(name, **kwargs)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if alone:
        # Its last norm is not always kept, and fine-tuning does not use it.
        kept = any(key.startswith("encoder.norm.") for key in state)
        expected = {
            key: shape
            for key, shape in expected.items()
            if key.startswith("encoder.") and (kept or not key.startswith("encoder.norm."))
        }
    check_state(state, expected, "the checkpoint")
    return name, kwargs


def check_arguments(name: str, kwargs: ModelArguments) -> ModelArguments:
    """All arguments that say how a model of this name is used; ValueError where it would refuse them."""
    with torch.device("meta"):
        return cast(Backbone, timm.create_model(name, **kwargs)).kwargs


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {
        key.removeprefix(f"{prefix}blocks.").split(".")[0] for key in state if key.startswith(f"{prefix}blocks.")
    }
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


class HuggingFaceConfig(TypedDict, total=False):
    """`config.json` of a `VideoMAEForPreTraining` or `VideoMAEForVideoClassification`."""

    model_type: str
    architectures: list[str]
    image_size: int
    num_frames: int
    patch_size: int
    tubelet_size: int
    num_channels: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float
    qkv_bias: bool
    use_mean_pooling: bool
    decoder_hidden_size: int
    decoder_num_hidden_layers: int
    decoder_num_attention_heads: int
    decoder_intermediate_size: int
    norm_pix_loss: bool
    id2label: dict[str, str]
    label2id: dict[str, int]
    problem_type: str


def huggingface_config(name: str, kwargs: ModelArguments, labels: Sequence[str] | None = None) -> HuggingFaceConfig:
    """`config.json` for our architecture, with our LayerNorm eps of 1e-6 (its own default is 1e-12)."""
    pretrain = "_pretrain_" in name
    size = SIZES[name.split("_")[2 if pretrain else 1]]
    config: HuggingFaceConfig = {
        "model_type": "videomae",
        "architectures": ["VideoMAEForPreTraining" if pretrain else "VideoMAEForVideoClassification"],
        "image_size": kwargs.get("img_size", 224),
        "num_frames": kwargs.get("num_frames", 16),
        "patch_size": 16,
        "tubelet_size": 2,
        "num_channels": 3,
        "hidden_size": size.embed_dim,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "intermediate_size": 4 * size.embed_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_mean_pooling": not pretrain,
        "decoder_hidden_size": size.decoder_embed_dim,
        "decoder_num_hidden_layers": kwargs.get("decoder_depth", size.decoder_depth),
        "decoder_num_attention_heads": size.decoder_num_heads,
        "decoder_intermediate_size": 4 * size.decoder_embed_dim,
        "norm_pix_loss": True,
    }
    if not pretrain:
        classes = kwargs.get("num_classes", 400)
        named = dict(enumerate(labels or [f"LABEL_{i}" for i in range(classes)]))
        config["id2label"] = {str(i): label for i, label in named.items()}
        config["label2id"] = {label: i for i, label in named.items()}
    return config
