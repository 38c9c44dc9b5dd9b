"""What the monitor of a pre-training said, in Prefect's page."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from pipeline.experiments.workspace import Workspace
from pipeline.layout import output_dir
from pipeline.monitor.record import MonitorRecord, read_record
from pipeline.system.text import markdown


def seen_in(where: Workspace, stage: str) -> MonitorRecord | None:
    """The record of a finished stage; None where it is no pre-training, or had no monitor."""
    return read_record(where.folder / output_dir(stage)) if stage == "pretrain" else None


def publish_health(record: MonitorRecord) -> None:
    """How a pre-training went: its alarms with cause and cure, and what the monitor saw last."""
    lines = [f"**{markdown(record.verdict)}**", "", *(f"- {markdown(alarm.sentence)}" for alarm in record.active), ""]
    lines += ["| number | value |", "|---|---:|"]
    lines += [f"| {markdown(name)} | {value:.4g} |" for name, value in record.newest.items()]
    create_markdown_artifact(key="health", markdown="\n".join(lines), description=markdown(record.line))
