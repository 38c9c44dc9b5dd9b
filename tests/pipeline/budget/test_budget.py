"""Budgets: what is counted, what stops a run, what a higher budget changes (nothing but that)."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import small_benchmark

from flows.chain.repro import budget_spent
from pipeline.budget import account, ledger, limit, meter
from pipeline.budget.ledger import Execution, Spent
from pipeline.efficiency.gpus import holding
from pipeline.errors import BudgetSpentError, InputError
from pipeline.params import Params, with_overrides
from pipeline.params.declared import work_key
from pipeline.params.write import write_params
from pipeline.planning.plan import plan
from pipeline.report.page import html
from pipeline.report.spent_section import spent_section


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("EVEREST_WORK", ledger.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def params(**compute: object) -> Params:
    return small_benchmark.params(**{f"compute__{name}": value for name, value in compute.items()})


def test_stages_that_run_at_once_take_their_hour_once_and_their_gpus_twice() -> None:
    hour = 3600.0
    spent = ledger.total(
        [
            Execution("finetune@a", 0.0, hour, gpus=4, wh=500.0),
            Execution("evaluate@b", hour / 2, 1.5 * hour, gpus=1, wh=None),
            Execution("finetune@a", 10 * hour, 11 * hour, gpus=4, wh=700.0),
        ]
    )
    assert spent == Spent(hours=2.5, gpu_hours=9.0, kwh=1.2, executions=3, measured=2)


def test_energy_that_was_measured_of_some_executions_is_said_to_be_a_part(here: Path) -> None:
    settings = params(budget={"kwh": 2.0}, g_co2_per_kwh=400.0)
    for number, wh in enumerate((None, 1500.0, 900.0)):
        one = Execution("pretrain", 10.0 * number, 10.0 * number + 5, 1, wh)
        ledger.write_execution(ledger.ledger(settings) / f"{number}.json", one)
    spent = ledger.total(ledger.read_executions(ledger.ledger(settings)))
    assert limit.share_of(settings.compute, spent) == "at least 2.4 of 2 kWh (2 of 3 executions measured)"
    assert limit.reached(settings.compute, spent).startswith("compute.budget.kwh = 2 kWh, and")
    page = html("t", "s", [], [spent_section(account.account(settings))])
    assert "at least 2.40 kWh (2 of 3 executions measured)" in page
    assert "at least 960.00 g CO2 (2 of 3 executions measured)" in page
    assert "at least 0.004" not in page
    assert limit.share_of(settings.compute, Spent(1.0, 1.0, 2.4, 3, 3)) == "2.4 of 2 kWh"


def test_money_and_carbon_follow_from_price_and_grid() -> None:
    settings = params(budget={"eur": 20.0, "kwh": 3.0}, eur_per_gpu_hour=2.5, g_co2_per_kwh=400.0).compute
    by_name = {row["what"]: row for row in limit.rows(settings, 2.5, 9.0, 1.2)}
    assert by_name["eur"]["amount"] == 22.5
    assert by_name["eur"]["fits"] is False
    assert by_name["kwh"]["fits"] is True
    assert by_name["g_co2"]["amount"] == 480.0
    assert by_name["hours"]["fits"] is None
    assert (
        limit.reached(settings, Spent(2.5, 9.0, 1.2)) == "compute.budget.eur = 20 EUR, and this run has taken 22.5 EUR"
    )


def test_a_budget_in_money_needs_a_price_and_unknown_limits_are_refused() -> None:
    with pytest.raises(InputError, match=r"compute.budget.eur = 20 needs a price .* Cure: compute.eur_per_gpu_hour"):
        params(budget={"eur": 20.0})
    with pytest.raises(InputError, match="days"):
        params(budget={"days": 1.0})
    with pytest.raises(InputError, match="hours"):
        params(budget={"hours": 0.0})


def test_another_budget_makes_nothing_stale_and_continues_the_same_count(here: Path) -> None:
    small, large = params(budget={"hours": 1.0}), params(budget={"hours": 9.0}, eur_per_gpu_hour=1.0)
    for stage, key in (("pretrain", None), ("finetune", "small"), ("evaluate", "small")):
        assert work_key(stage, key, small) == work_key(stage, key, large)
    assert ledger.ledger(small) == ledger.ledger(large)
    assert ledger.ledger(with_overrides(small, {"seed": 5})) != ledger.ledger(small)
    declared = Path(__file__).resolve().parents[3] / "dvc.yaml"
    assert "compute" not in re.sub("#.*", "", declared.read_text())


def test_a_run_that_spent_its_budget_saves_is_not_begun_again_and_goes_on_with_a_higher_one(here: Path) -> None:
    short = params(budget={"hours": 1.5 / 3600}, device="cpu")
    saved = []

    def work() -> None:
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            saved.append(True)
            raise

    with pytest.raises(BudgetSpentError) as caught, meter.metered(short, "preprocess", "small"):
        work()
    assert saved == [True]
    assert caught.value.exit_code == 3
    assert re.fullmatch(
        r"budget spent: compute.budget.hours = 0.000416667 h, and this run has taken 0.000\d+ h; preprocess@small was "
        r"stopped; what is finished is kept. Cure: raise it, and the same command continues; no stage becomes stale by "
        "it.",
        str(caught.value),
    )
    (execution,) = ledger.read_executions(ledger.ledger(short))
    assert 1.5 <= execution.ended - execution.began < 20
    assert execution.gpus == 0
    with pytest.raises(BudgetSpentError, match="was not started"), meter.metered(short, "pretrain", None):
        pytest.fail("begun without a budget")
    with meter.metered(params(budget={"hours": 1.0}, device="cpu"), "pretrain", None):
        saved.append(False)
    assert saved == [True, False]
    assert len(ledger.read_executions(ledger.ledger(short))) == 2


def test_a_clock_that_is_set_takes_nothing_of_the_budget(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = meter.Meter(params(budget={"hours": 1.0}, device="cpu"), "preprocess", "preprocess@small")
    real = time.time
    for hours in (6, -6):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
        assert 0 <= counting.spent().hours < 0.1


def test_a_clock_that_is_set_back_takes_no_hours_from_the_sum_and_no_record_from_the_disk(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(meter, "WRITE_SECONDS", 0.1)
    settings, now, real = params(device="cpu"), time.time(), time.time
    folder = ledger.ledger(settings)
    before = Execution("pretrain", now - 7200, now - 3600, 0, None)
    ledger.write_execution(folder / f"{before.began:.3f}-1.json", before)
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    with meter.metered(settings, "preprocess", "small"):
        time.sleep(0.3)
        monkeypatch.setattr(time, "time", lambda: real() - 9 * 3600)
        time.sleep(0.7)
        executions = ledger.read_executions(folder)  # as a kill would leave it
        assert 3600.7 <= 3600 * ledger.total(executions).hours <= 3660
    assert len(executions) == 2


def test_a_record_that_cannot_be_read_for_a_while_stops_no_count_and_is_named_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meter, "WRITE_SECONDS", 0.0)
    settings = params(budget={"hours": 2.5 / 3600}, device="cpu")

    def work() -> None:
        (ledger.ledger(settings) / "1.json").mkdir(parents=True)
        time.sleep(30)

    with pytest.raises(BudgetSpentError, match="was stopped"), meter.metered(settings, "preprocess", "small"):
        work()
    (said,) = [record.getMessage() for record in caplog.records if "1.json" in record.getMessage()]
    assert said.startswith("the budget counts on with what was read before: ")
    with (
        pytest.raises(InputError, match=r"1\.json: Is a directory; it says what .* Cure: make it readable"),
        meter.metered(settings, "preprocess", "small"),
    ):
        pytest.fail("begun without its count")


def test_a_budget_that_is_raised_while_it_runs_counts(here: Path) -> None:
    write_params(here / "params.yaml", params(budget={"hours": 1.0}, device="cpu"))
    with meter.metered(params(budget={"hours": 0.6 / 3600}, device="cpu"), "preprocess", "small"):
        time.sleep(2)


def test_a_stage_that_a_person_stops_says_nothing_of_budgets(here: Path) -> None:
    counted = meter.metered(params(budget={"hours": 1.0}), "preprocess", "small")
    with pytest.raises(KeyboardInterrupt), counted:
        signal.raise_signal(signal.SIGINT)


def test_limits_that_nothing_here_can_count_are_named() -> None:
    settings = params(budget={"gpu_hours": 2.0, "kwh": 1.0}).compute
    assert limit.uncounted(settings, 0, False).startswith(
        "compute.budget.gpu_hours, compute.budget.kwh cannot be counted"
    )
    assert limit.uncounted(settings, 8, True) == ""


def test_a_comparison_counts_all_of_its_trainings_together(here: Path) -> None:
    settings = params()
    with ledger.one_ledger(settings, "compare"):
        shared = [ledger.ledger(with_overrides(settings, {"seed": seed})) for seed in (0, 1)]
    assert shared[0] == shared[1] != ledger.ledger(settings)
    assert ledger.VARIABLE not in os.environ


def test_a_flow_tells_a_spent_budget_from_a_failure() -> None:
    sentence = (
        "budget spent: compute.budget.hours = 2 h, and this run has taken 2 h; pretrain was stopped after step 3."
    )
    log = f"Running stage 'pretrain':\n{sentence}\nERROR: failed to reproduce 'pretrain': failed to run: "
    assert budget_spent(f"{log}everest pretrain, exited with 3\n") == sentence
    assert budget_spent(f"{log}everest pretrain, exited with 1\n") == ""


def test_the_plan_says_whether_it_fits_and_the_report_shows_spent_beside_planned(here: Path) -> None:
    given = {"planned_for": "h100", "budget": {"hours": 1000.0, "gpu_hours": 1e-6}, "eur_per_gpu_hour": 3.0}
    settings = params(**given)
    small_benchmark.make(count=48)
    write_params(here / "params.yaml", settings)
    planned = plan(memory=False, gpus=1)
    rows = {row["what"]: row for row in planned["budget"]}
    assert rows["hours"]["amount"] == pytest.approx(planned["hours_total"], abs=1e-4)
    assert rows["gpu_hours"]["amount"] == rows["hours"]["amount"]
    assert rows["kwh"]["amount"] == pytest.approx(0.7 * rows["hours"]["amount"])
    assert (rows["hours"]["fits"], rows["gpu_hours"]["fits"]) == (True, False)
    assert planned["verdict"].startswith("does not fit the budget: ")
    began = time.time() - 7200
    ledger.write_execution(
        ledger.ledger(settings) / f"{began:.3f}-1.json", Execution("pretrain", began, began + 3600, 2, 900.0)
    )
    spent = {row["what"]: row for row in account.account(settings)}
    assert (spent["hours"]["spent"], spent["hours"]["budget"]) == (pytest.approx(1.0), 1000.0)
    assert spent["hours"]["planned"] == rows["hours"]["amount"]
    assert (spent["eur"]["spent"], spent["kwh"]["spent"]) == (pytest.approx(6.0), pytest.approx(0.9))
    page = html("t", "s", [], [spent_section(account.account(settings))])
    assert "6.00 EUR" in page
    assert "1,000 h" in page
    assert json.loads(json.dumps(planned))["verdict"]


def test_a_stage_that_waits_for_gpus_takes_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "visible", lambda: ["GPU-0", "GPU-1", "GPU-2"])
    settings = params(budget={"gpu_hours": 5 / 3600}, device="cuda", ranks=2)
    with meter.metered(settings, "pretrain", None):
        time.sleep(3)
        with holding(["GPU-1", "GPU-2"]):
            time.sleep(1.5)
    (execution,) = ledger.read_executions(ledger.ledger(settings))
    assert execution.gpus == 2
    assert execution.gpu_seconds is not None
    assert 2 * (1.5 - meter.TICK_SECONDS) <= execution.gpu_seconds <= 2 * (1.5 + 2 * meter.TICK_SECONDS)
    assert execution.ended - execution.began >= 4.5


def test_the_energy_of_a_job_on_other_machines_is_not_said_to_be_counted_here(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Counts:
        def __init__(self, gpus: list[str]) -> None:
            pass

        def read(self) -> float:
            return 1.0

    monkeypatch.setattr(meter, "visible", list)
    monkeypatch.setattr(meter, "MachineEnergy", Counts)
    with meter.metered(params(budget={"kwh": 1.0}, device="cuda", ranks=2, launcher="slurm"), "pretrain", None):
        pass
    assert "compute.budget.kwh cannot be counted" in caplog.text


def test_records_in_a_folder_that_cannot_be_listed_are_not_taken_for_none(here: Path) -> None:
    settings = params(budget={"hours": 1.0}, device="cpu")
    folder = ledger.ledger(settings)
    assert ledger.read_executions(folder) == []  # nothing has run yet
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    with pytest.raises(InputError, match=r": Not a directory; it says what a stage has taken of the budget\. Cure:"):
        ledger.read_executions(folder)
