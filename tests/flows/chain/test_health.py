"""What Prefect's page says of a pre-training's health."""

from __future__ import annotations

from flows.chain.health import page_of
from pipeline.monitor.record import Alarm, Look, MonitorRecord
from pipeline.tracking import names

KNN = names.monitor_of(names.KNN, "motion")
LOOKS = (
    Look(0, 0.0, {names.COPY_LOSS: 1.2, names.LOSS_SHARE: 1.06, KNN: 0.125}, long=True),
    Look(50, 1.0, {names.COPY_LOSS: 1.1, names.LOSS_SHARE: 0.8}),
)


def test_the_page_has_the_verdict_the_alarms_and_the_first_and_last_numbers() -> None:
    alarms = (
        Alarm("plateau", 40, "the loss no longer falls", "a cause", "a cure"),
        Alarm("learned-nothing", 9, "nothing is learned", "another cause", "another cure", holds=False),
    )
    lines = page_of(MonitorRecord(100, checked=60, looks=LOOKS, alarms=alarms)).splitlines()
    assert lines[0] == "**plateau** (judged after step 60 of 100)"
    assert lines[2] == "- the loss no longer falls (since step 40). Cause: a cause. Cure: a cure."
    assert lines[3] == "- passed: nothing is learned (from step 9, no longer)"
    table = [line.replace("\\", "") for line in lines if line.startswith("| monitor")]
    assert table == [
        "| monitor/loss_share | 1.06 | 0 | 0.8 | 50 |",
        "| monitor/knn/motion | 0.125 | 0 | 0.125 | 0 |",
        "| monitor/copy_loss | 1.2 | 0 | 1.1 | 50 |",
    ]
