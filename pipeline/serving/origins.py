"""What the tracking server knows of a model: the run that tested it, and those that trained it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import EverestError
from pipeline.experiments.lineage import RunFacts, run_facts
from pipeline.model_folder import sha256

#: Fine-tuning, pre-training, and one more where a model was trained further.
DEPTH = 4


@dataclass(frozen=True)
class Origins:
    """Where a model comes from.

    Attributes:
        sha256: of its weights.
        tested: the run that tested it; None where none is known.
        trained: the run that made its weights, then those that made what it began with.
        versions: its addresses in the registry.
        unknown: why nothing more is known; "" where something is.
    """

    sha256: str
    tested: RunFacts | None = None
    trained: list[RunFacts] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    unknown: str = ""


def origins_of(folder: Path) -> Origins:
    """The runs behind a model's folder, found by the hash of its weights.

    Raises:
        InputError: the weights are not those that the folder records.
    """
    from pipeline.tracking.store import Store

    digest = sha256(folder)
    try:
        store = Store.existing()
        versions = sorted(store.models.with_tag("sha256", digest), key=lambda one: int(one["version"]))
        tests = [one["run"] for one in versions if one["run"]]
        makers = store.search(query=f"tags.`everest.weights_sha256` = '{digest}'", limit=1)
        trained = [run_facts(makers[0]["id"])] if makers else []
        while trained and trained[-1]["weights_from"] and len(trained) < DEPTH:
            trained.append(run_facts(trained[-1]["weights_from"][0]["id"]))
        tested = run_facts(tests[-1]) if tests else None
    except EverestError as error:
        return Origins(digest, unknown=str(error))
    nothing = tested is None and not trained
    return Origins(
        digest,
        tested,
        trained,
        [f"models:/{one['name']}/{one['version']}" for one in versions],
        "no run of the tracking store has these weights" if nothing else "",
    )
