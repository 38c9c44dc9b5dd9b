"""The monitor's k-NN probe on a checkpoint of an unfinished pre-training, clip by clip.

The clips are chosen as the monitor chooses its own: those to score are of the split `val`, or, where there is none,
training videos that the probe is not fitted on; test videos are never looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.registry import architecture
from pipeline.data.clips.dataset import Member, labelled_rows, open_source
from pipeline.data.frame_step import step_of
from pipeline.distributed.groups import Ranks, choose_device
from pipeline.efficiency.clip_cost import autoencoder_arguments
from pipeline.errors import EverestError, InputError
from pipeline.monitor.clips import FeatureSet, feature_set
from pipeline.monitor.look import look_at_set
from pipeline.monitor.measures.probes import knn_guess
from pipeline.monitor.measures.scores import clip_scores
from pipeline.monitor.twin import Twin
from pipeline.params import Params
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.settings import HALF

#: Clips of a look at most, a third of them scored: it takes seconds on a CPU.
MOST_CLIPS = 1536


def probe_scores(params: Params, checkpoints: Path, benchmark: str) -> npt.NDArray[np.float64]:
    """How right the probe is on each scored clip [V], in [0, 1]; the same clips in the same order for every strategy.

    1 or 0, right or wrong, where clips have one class; `pipeline.monitor.measures.scores.clip_scores` says what of
    several. 0 everywhere where features are no numbers.

    Raises:
        EverestError: there is no intact checkpoint.
        InputError: there is nothing to score, or all clips have the same class.
    """
    newest = Checkpoints(checkpoints).newest()
    if newest is None:
        raise EverestError(f"{checkpoints}: no intact checkpoint to look at. Cure: start again to continue.")
    stage, device = params.pretrain, choose_device(params.compute.device)
    name, arguments = architecture(stage.size, pretrain=True), autoencoder_arguments(stage, params.clip)
    twin = Twin(name, arguments, params.clip.resolution, device, HALF.get(stage.precision))
    clips = _clips(params, benchmark)
    with twin.with_weights(newest.tensors.get("average") or newest.tensors["model"]):
        seen = look_at_set(twin, clips, Ranks(0, 1, 0, device), alive=lambda: None)
    cut, features_VD, truth_VK = clips.fit, seen.features_VD, seen.truth_VK
    if not np.isfinite(features_VD).all():  # weights that are far off
        return np.zeros(len(features_VD) - cut)
    guess_WK = knn_guess(features_VD[:cut], truth_VK[:cut], features_VD[cut:])
    return clip_scores(guess_WK, truth_VK[cut:], clips.several)


def _clips(params: Params, benchmark: str) -> FeatureSet:
    source, step = open_source(params, benchmark), step_of(params, benchmark)
    member = Member(source, labelled_rows(source, benchmark, "train"), step)
    # Which unreadable clip gives way to which other must not depend on a trial's seed.
    clips = feature_set(benchmark, member, MOST_CLIPS, params.clip.frames, seed=0)
    if not clips.labelled:
        raise InputError(
            f"compare.stop = 'futile' needs labelled clips of several kinds to look at, and {benchmark} has none. "
            "Cure: compare.stop: null."
        )
    return clips
