"""What a checkpoint holds: taken from live objects, stored, and given back to them, whatever the number of ranks.

Tensors are keyed by parameter name and stored whole, so that DDP, FSDP and any number of ranks read the same file. They
are written as a stream, hashed on the way, and read only after their hash was checked.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.torch
import torch
from torch import nn

from models.backbone import Backbone
from models.selection import Budget
from pipeline.distributed.groups import Ranks, like, whole
from pipeline.errors import EverestError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    full = whole(tensor.detach())
    return full.to("cpu", copy=True)


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers as private CPU copies (a collective under FSDP)."""
    return {name: _copied(value) for name, value in model.state_dict().items()}


def load_model(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give a model its tensors back.

    Raises:
        EverestError: names or shapes are not the model's; the message names those that differ.
    """
    state = model.state_dict()
    wrong = sorted(set(state) ^ set(tensors)) or sorted(n for n in state if state[n].shape != tensors[n].shape)
    if wrong:
        raise EverestError(
            f"the checkpoint does not fit the model: {', '.join(wrong[:5])} differ. Cure: remove the work folder to "
            "start afresh."
        )
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(like(tensors[name], value))


def seen_budgets(model: nn.Module) -> list[list[int]]:
    """What the clips of this rank had as budgets of their own, one number or two, and behind it how many clips."""
    counts = [network.seen for network in model.modules() if isinstance(network, Backbone)]
    return [[*(key if isinstance(key, Budget) else (key,)), count] for seen in counts for key, count in seen.items()]


def load_seen(model: nn.Module, rows: list[list[int]]) -> None:
    """Let a model go on counting from there."""
    for network in model.modules():
        if isinstance(network, Backbone):
            network.seen = Counter({Budget(*key) if len(key) > 1 else key[0]: count for *key, count in rows})


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`<parameter>|<moment>` -> tensor (a collective under FSDP)."""
    moments = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                moments[f"{name}|{key}"] = _copied(value)
    return moments


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the moments back beside their parameters; a parameter without moments starts without."""
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, moment = key.rsplit("|", 1)
        by_name.setdefault(name, {})[moment] = value
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for moment, value in sorted(by_name.pop(name, {}).items()):
                # `step` is one number beside each parameter; the other moments are laid out as the parameter.
                placed = value.to(parameter.device) if value.ndim == 0 else like(value, parameter.detach())
                optimizer.state[parameter][moment] = placed.clone()
    if by_name:
        raise EverestError(f"the checkpoint has moments of unknown parameters: {', '.join(sorted(by_name)[:5])}.")


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """This process's python, numpy, torch and device generators, as tensors."""
    _, words, gauss = random.getstate()
    kind = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state(legacy=True))
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([float("nan") if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(kind[1]).astype(np.int64)),
        "numpy_position": torch.tensor([kind[2], kind[3]], dtype=torch.int64),
        "numpy_gauss": torch.tensor([kind[4]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """The inverse of :func:`rng_state`."""
    gauss = float(state["python_gauss"])
    random.setstate((3, tuple(state["python"].tolist()), None if gauss != gauss else gauss))
    position, has_gauss = state["numpy_position"].tolist()
    words = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, position, has_gauss, float(state["numpy_gauss"])))
    torch.set_rng_state(state["torch"].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)


def gather_rng(ranks: Ranks) -> dict[str, torch.Tensor]:
    """All ranks' generators as `<rank>.<generator>` (a collective)."""
    states = ranks.gather(rng_state(ranks.device))
    return {f"{rank}.{key}": value for rank, state in enumerate(states) for key, value in state.items()}


def restore_rng(tensors: dict[str, torch.Tensor], ranks: Ranks, seed: int) -> bool:
    """Give this rank its generators back.

    With another number of ranks there are none for some of them: then all ranks are seeded anew from `seed`,
    and False is returned. Data order and crops do not depend on these generators; dropout and drop-path do.
    """
    saved = len({name.split(".", 1)[0] for name in tensors})
    mine = {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(f"{ranks.rank}.")}
    if saved != ranks.world:
        seed_all(seed, ranks)
        return False
    set_rng_state(mine, ranks.device)
    return True


def seed_all(seed: int, ranks: Ranks) -> None:
    """Seed python, numpy and torch differently on each rank, the same for the same seed."""
    mixed = np.random.SeedSequence([seed, ranks.rank, ranks.world]).generate_state(1)[0]
    random.seed(int(mixed))
    np.random.seed(int(mixed))
    torch.manual_seed(int(mixed))


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Write `tensors` (on the CPU); return the SHA-256 of what was meant, in hexadecimal.

    The format is safetensors': 8 bytes little-endian header length, a JSON header, the raw tensors. Writing it here
    rather than through the library keeps one tensor in flight instead of a second copy of the model, and releases the
    interpreter while hashing and writing, so that training goes on. Reading is the library's own.

    Raises:
        OSError: the disk is full or the folder read-only.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for tensor in tensors.values():
            if tensor.numel():
                data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
                file.write(data)
                digest.update(data)
    return digest.hexdigest()


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file's bytes, on the CPU. Carries no code, whatever the file holds."""
    # The library returns them in an order of its own, another in each process; sharding them is a collective.
    return dict(sorted(safetensors.torch.load(data).items()))
