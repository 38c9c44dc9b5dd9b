"""`everest ops status` as tables and sentences for a person."""

from __future__ import annotations

import time

from pipeline.operations.overview import Overview
from pipeline.operations.server import Run
from pipeline.system.progress import clock

Table = list[dict[str, object]]


def tables(view: Overview) -> list[tuple[str, Table]]:
    """(title, rows) in the order in which they are printed; empty tables are left out."""
    all_tables: list[tuple[str, Table]] = [
        (f"Queue ({view.later} more are scheduled for later)", [_run(run) for run in view.queue]),
        ("Who trains", _turn(view)),
        ("Workers", [{"worker": name, "state": "online" if online else "gone"} for name, online in view.workers]),
        (
            "GPUs",
            [{"gpu": g.index, "name": g.name, "processes": len(g.pids), "held by": g.held_by} for g in view.gpus],
        ),
        (
            "Disks",
            [{"place": d.what, "path": d.path, "free": f"{d.free_gib:.0f} GiB, {d.share:.0%}"} for d in view.disks],
        ),
        (
            "Servers",
            [{"server": s.name, "where": s.where, "state": s.state, "version": s.version} for s in view.services],
        ),
        ("Versions", [dict(view.versions)]),
        ("Last canary", [_run(view.canary)] if view.canary else []),
    ]
    return [(title, rows) for title, rows in all_tables if rows]


def _run(run: Run) -> dict[str, object]:
    at = run.ended or run.started or run.expected
    return {
        "run": _short(f"{run.flow}: {run.name}", 60),
        "state": run.state,
        "for": clock(max(0.0, time.time() - at)) if at else "",
        "says": _short(run.message, 80),
        "id": run.id,
    }


def _turn(view: Overview) -> Table:
    lock = str(view.turn) if view.turn else ("a run that has just begun" if view.turn_taken else "nobody")
    slots = f"{view.slots[0]} of {view.slots[1]}" if view.slots else "no limit there"
    claims = "; ".join(_short(claim, 80) for claim in view.claims) or "nobody"
    return [{"lock file": _short(lock, 80), "slots taken": slots, "claimed by": claims}]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
