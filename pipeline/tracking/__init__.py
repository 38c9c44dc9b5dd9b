"""Tracking of runs: a spool on disk, sent to MLflow in the background. Importing this imports no mlflow."""

from pipeline.tracking.runs import StageRun, close_parent, open_parent, stage_run
from pipeline.tracking.spool import Spool

__all__ = ["Spool", "StageRun", "close_parent", "open_parent", "stage_run"]
