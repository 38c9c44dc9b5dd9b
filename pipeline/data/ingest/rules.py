"""What ingest accepts where a command is not bound to a benchmark: predict and show."""

from __future__ import annotations

from pipeline.params import IngestParams, load_params
from pipeline.recipes import PARAMS, recipe_path


def ingest_rules() -> IngestParams:
    """The group `ingest` of params.yaml; without one, that of the published recipes."""
    return load_params(PARAMS if PARAMS.exists() else recipe_path("ucf101")).ingest
