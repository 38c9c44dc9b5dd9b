"""The frozen mirror of params.yaml: every number of an experiment, checked before anything runs."""

from pipeline.params.benchmarks import DataParams, FolderSource, GeneratedSource, OfficialSource
from pipeline.params.groups import (
    FINETUNING,
    PATCH,
    PRETRAINING,
    SCRATCH,
    TUBELET,
    ClipParams,
    FinetuneParams,
    Group,
    IngestParams,
    Overrides,
    PretrainParams,
    TrainingParams,
    compared_strategies,
)
from pipeline.params.keys import flatten, key_schemas, known_keys, lookup, nearest_key
from pipeline.params.load import check_params, load_params, with_overrides
from pipeline.params.schema import ComputeParams, Params

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
    "TrainingParams",
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
