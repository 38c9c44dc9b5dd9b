"""The two trainings as the engine sees them: which model, which batches, which loss.

Shapes: B clips, C channels, T frames, H x W pixels, N tokens, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

import models  # noqa: F401 - registers the names with timm
from models.cost import Cost, multiply_adds
from models.registry import architecture
from models.weights import init_from, save_model
from pipeline import layout
from pipeline.errors import InputError
from pipeline.params import FinetuneParams, Params, PretrainParams
from pipeline.training.distributed import Ranks
from pipeline.training.engine import Loader, Settings, Task
from pipeline.training.optim import parameter_groups
from pipeline.training.probes import Probes
from pipeline.training.settings import settings_of
