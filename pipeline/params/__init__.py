"""The frozen mirror of params.yaml: every number of an experiment, checked before anything runs."""

from pipeline.params.benchmarks import DataParams, FolderSource, GeneratedSource, OfficialSource, SceneParams
from pipeline.params.groups import (
    PATCH,
    TUBELET,
    ClipParams,
    FinetuneParams,
    Group,
    IngestParams,
    PretrainParams,
    TrainingParams,
)
from pipeline.params.keys import flatten, key_schemas, known_keys, lookup, nearest_key
from pipeline.params.load import check_params, load_params, with_overrides
from pipeline.params.schema import ComputeParams, Params
from pipeline.strategies import (
    FINETUNING,
    PRETRAINING,
    SCRATCH,
    Overrides,
    arm_overrides,
    compared_strategies,
)

__all__ = [
    "FINETUNING",
    "PATCH",
    "PRETRAINING",
    "SCRATCH",
    "TUBELET",
    "ClipParams",
    "ComputeParams",
    "DataParams",
    "FinetuneParams",
    "FolderSource",
    "GeneratedSource",
    "Group",
    "IngestParams",
    "OfficialSource",
    "Overrides",
    "Params",
    "PretrainParams",
    "SceneParams",
    "TrainingParams",
    "arm_overrides",
    "check_params",
    "compared_strategies",
    "flatten",
    "key_schemas",
    "known_keys",
    "load_params",
    "lookup",
    "nearest_key",
    "with_overrides",
]
