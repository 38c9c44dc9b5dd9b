"""What the monitor of a pre-training said, in Prefect's page."""

from __future__ import annotations

from collections.abc import Iterator

from prefect.artifacts import create_markdown_artifact

from flows.chain.orders import on_page
from pipeline.experiments.workspace import Workspace
from pipeline.layout import output_dir
from pipeline.monitor.record import MonitorRecord, read_record
from pipeline.system.text import markdown


def seen_in(where: Workspace, stage: str) -> MonitorRecord | None:
    """The record of a finished stage; None where it is no pre-training, or had no monitor."""
    return read_record(where.folder / output_dir(stage)) if stage == "pretrain" else None


def publish_health(record: MonitorRecord) -> None:
    """How a pre-training went: its alarms with cause and cure, and what the monitor saw first and last."""
    with on_page("the health of the pre-training"):
        create_markdown_artifact(key="health", markdown=page_of(record), description=markdown(record.line))


def page_of(record: MonitorRecord) -> str:
    """The verdict, the alarms that hold and those that passed, and a table of numbers."""
    return "\n".join(_lines(record))


def _lines(record: MonitorRecord) -> Iterator[str]:
    yield f"**{markdown(record.verdict)}** (judged after step {record.checked} of {record.steps})"
    yield ""
    for alarm in record.alarms:
        yield (
            f"- {markdown(alarm.sentence)}"
            if alarm.holds
            else (f"- passed: {markdown(alarm.what)} (from step {alarm.step}, no longer)")
        )
    yield ""
    yield "What each number means: docs/monitoring.md. Loss share: 1 is nothing learned."
    yield ""
    yield "| number | first | at step | last | at step |"
    yield "|---|---:|---:|---:|---:|"
    for name in record.metrics:
        points = record.curve(name)
        (first, _, before), (last, _, now) = points[0], points[-1]
        yield f"| {markdown(name)} | {before:.4g} | {first} | {now:.4g} | {last} |"
