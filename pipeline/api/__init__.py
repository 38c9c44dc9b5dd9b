"""What the commands do, as plain functions with typed results: `from pipeline import api`.

    found = api.audit("videos")                                # Audit: .findings, .savings, .page
    setup = api.init("videos", hours=4)                        # Setup: .warnings, .values; writes params.yaml
    features = api.embed(["videos"], "outputs/pretrain").features()   # .values [rows, width], .table
    answers = api.predict(["clip.mp4"], "models:/everest-motion@best")
    model = api.load("outputs/pretrain")                       # .network is a timm backbone

The commands call these functions. Rows of results are dataclasses: `pandas.DataFrame(found.findings.videos)` works.
Errors are those of `pipeline.errors`: InputError for what was given, EverestError for what failed, Interrupted after
Ctrl-C (what is finished is kept). Nothing heavy is imported before it is needed.
"""

from pipeline.api.looking import audit, init
from pipeline.api.using import LoadedModel, embed, load, predict, timeline

__all__ = ["LoadedModel", "audit", "embed", "init", "load", "predict", "timeline"]
