"""Pre-training: one masked autoencoder over the corpora that params.yaml names."""

from __future__ import annotations

from pipeline import layout
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.params.declared import corpus_inputs
from pipeline.training import job


def run(params: Params, benchmark: str | None) -> dict[str, float]:
    """Pre-train, or continue where a stopped run with the same parameters and data left off.

    Raises:
        InputError: a corpus is missing.
        Interrupted: stopped by a signal; the state was saved.
    """
    if benchmark is not None:
        raise InputError(
            f"pretrain takes no benchmark, got {benchmark!r}: it trains once, on pretrain.corpus of params.yaml. Cure: "
            "`everest pretrain`."
        )
    for name in params.pretrain.corpus:
        path = layout.corpus_file(name)
        if not path.exists():
            raise InputError(f"{path} does not exist. Cure: `everest corpus {name}`, or `dvc repro corpus@{name}`.")
    values = {
        "seed": params.seed,
        "clip": params.clip.model_dump(mode="json"),
        "pretrain": params.pretrain.model_dump(mode="json"),
    }
    return job.train("pretrain", None, params, values, corpus_inputs(params.pretrain.corpus))
