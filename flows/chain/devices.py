"""Who has which GPU, on Prefect's page: a line in the run's log, and a table that every change of hands renews."""

from __future__ import annotations

import time
from contextlib import suppress

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import MissingContextError

from flows.chain.lines import say
from flows.chain.orders import on_page
from pipeline.distributed.device_table import DeviceTable, device_table
from pipeline.system.locks import Holder
from pipeline.system.text import markdown

#: How a stage says that it took GPUs or waits for them (`pipeline.distributed.devices`).
CHANGES = (" has ", " waits for ")


def heard(line: str) -> None:
    """Pass on a line of a stage's log: to the terminal, and what it says of ranks and GPUs to the run's page."""
    say(line)
    if not line.startswith("ranks: "):
        return
    with suppress(MissingContextError):  # outside of a flow there is no page
        get_run_logger().info(line)
        if any(word in line for word in CHANGES):
            table = device_table()
            if table.held or table.waiting:
                publish_devices(table)


def publish_devices(table: DeviceTable) -> None:
    """Who has which GPU of the worker's machine now, and who waits."""
    lines = ["| GPU | held by | in | since |", "|---|---|---|---|"]
    lines += [f"| {markdown(one.device)} | {_cells(one.holder)} |" for one in table.held]
    waiting = [f"| {markdown(one.holder.stage)} | {one.count} GPU(s) |" for one in table.waiting]
    if waiting:
        lines += ["", "| waits | for |", "|---|---|", *waiting]
    moment = time.strftime("%Y-%m-%d %H:%M:%S")
    with on_page("who has which GPU"):
        create_markdown_artifact(key="gpus", markdown="\n".join(lines), description=f"As of {moment}")


def _cells(who: Holder | None) -> str:
    if who is None:
        return "a process that does not say who it is | – | –"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(who.since))
    return f"{markdown(who.stage)} of run {markdown(who.name)}, process {who.pid} | {markdown(who.folder)} | {since}"
