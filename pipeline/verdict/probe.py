"""What an unfinished pre-training's features tell of the classes: nearest neighbours on a checkpoint, clip by clip.

Clips to look up are of the split `train`, clips to name of `val`; test videos are never looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.autoencoder import EverestAutoencoder
from models.registry import architecture, create_autoencoder
from pipeline.data.clips.dataset import ClipDataset, labelled_clips
from pipeline.data.clips.loader import ClipLoader
from pipeline.data.pixels.transforms import EvalTransform
from pipeline.distributed.groups import choose_device
from pipeline.efficiency.clip_cost import autoencoder_arguments
from pipeline.errors import EverestError, InputError
from pipeline.params import Params
from pipeline.training.checkpoint import Checkpoints

Features = npt.NDArray[np.float32]

#: Clips that are looked up and named at most: a look takes seconds on a CPU.
MOST_FIT, MOST_SCORED = 1024, 512
#: [clips] that go through the encoder together; neighbours that vote (`pipeline.evaluation.baselines` has the same).
BATCH, NEIGHBOURS = 32, 20


def probe_hits(params: Params, checkpoints: Path, benchmark: str) -> npt.NDArray[np.bool_]:
    """Whether the probe names each scored clip rightly [V], the same clips in the same order for every strategy.

    Raises:
        EverestError: there is no intact checkpoint.
        InputError: the benchmark has no labelled `val` split.
    """
    newest = Checkpoints(checkpoints).newest()
    if newest is None:
        raise EverestError(f"{checkpoints}: no intact checkpoint to look at. Cure: start again to continue.")
    own = params.pretrain
    arguments = autoencoder_arguments(own, params.clip)
    with torch.random.fork_rng(devices=[]):
        model: EverestAutoencoder = create_autoencoder(architecture(own.size, pretrain=True), arguments)
    model.load_state_dict(newest.tensors["model"])
    device = choose_device(params.compute.device)
    model.to(device).eval()
    try:
        fit_clips, scored_clips = (
            _some(params, benchmark, *one) for one in (("train", MOST_FIT), ("val", MOST_SCORED))
        )
    except InputError as error:
        raise InputError(f"compare.stop = 'futile' looks at the split val. {error}") from error
    fit, fit_labels = _features(model, fit_clips, params, device)
    scored, labels = _features(model, scored_clips, params, device)
    return np.asarray(_vote(fit, fit_labels, scored) == labels)


def _some(params: Params, benchmark: str, split: str, most: int) -> ClipDataset:
    """At most about so many clips of a split, the same share of each class."""
    clips = labelled_clips(params, benchmark, split, random=False)
    share = min(1.0, most / len(clips))
    return clips if share == 1.0 else labelled_clips(params, benchmark, split, random=False, fraction=share)


def _features(
    model: EverestAutoencoder, clips: ClipDataset, params: Params, device: torch.device
) -> tuple[Features, npt.NDArray[np.int64]]:
    """The mean of the encoder's tokens of each clip [V, D], and the labels [V]."""
    loader = ClipLoader(clips, seed=0, global_batch=BATCH, shuffle=False, drop_last=False, replace=True)
    transform = EvalTransform(params.clip.resolution)
    features, labels = [], []
    with torch.no_grad():
        for batch in loader.epoch(0):
            clip_BCTHW, label_B = transform(batch, device)
            features.append(model.forward_head(model.forward_features(clip_BCTHW)).float().cpu().numpy())
            labels.append(label_B.cpu().numpy())
    return np.concatenate(features), np.concatenate(labels)


def _vote(fit: Features, fit_labels: npt.NDArray[np.int64], scored: Features) -> npt.NDArray[np.int64]:
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(fit)), metric="cosine")
    return np.asarray(neighbours.fit(fit, fit_labels).predict(scored))
