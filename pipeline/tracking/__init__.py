"""Tracking of runs: a spool on disk, sent to MLflow in the background. Importing this imports no mlflow."""

from pipeline.tracking.parents import close_parent, open_parent
from pipeline.tracking.runs import StageRun, stage_run
from pipeline.tracking.spool import Spool

__all__ = ["Spool", "StageRun", "close_parent", "open_parent", "stage_run"]
