"""What the commands do, as plain functions with typed results: `from pipeline import api`.

    found = api.audit("videos")                                # Audit: .findings, .savings, .page
    setup = api.init("videos", hours=4)                        # Setup: .warnings, .values; writes params.yaml
    features = api.embed(["videos"], "outputs/pretrain").features()   # .values [rows, width], .table
    answers = api.predict(["clip.mp4"], "models:/everest-motion@best")
    model = api.load("outputs/pretrain")                       # .network is a timm backbone

The commands call these functions. Each is handed on as it stands in its own module, which is imported when it is first
asked for: nothing heavy is imported before it is needed. Rows of results are dataclasses, so
`pandas.DataFrame(found.findings.videos)` works.
Errors are those of `pipeline.errors`: InputError for what was given, EverestError for what failed, Interrupted after
Ctrl-C (what is finished is kept).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api.loading import LoadedModel, load
    from pipeline.audit.audit import audit
    from pipeline.inference.embed import embed
    from pipeline.inference.predict import predict
    from pipeline.setup.init import init
    from pipeline.timeline.timeline import timeline

__all__ = ["LoadedModel", "audit", "embed", "init", "load", "predict", "timeline"]

#: Name -> the module that it stands in.
_HOMES = {
    "LoadedModel": "pipeline.api.loading",
    "audit": "pipeline.audit.audit",
    "embed": "pipeline.inference.embed",
    "init": "pipeline.setup.init",
    "load": "pipeline.api.loading",
    "predict": "pipeline.inference.predict",
    "timeline": "pipeline.timeline.timeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
