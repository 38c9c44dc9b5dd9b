"""The screen of `everest status`: lines with a style each, drawn by `pipeline.system.terminal`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.status.records import Checkout, Finished, FlowRun, Gpu, Stage, Status, Training
from pipeline.status.stages import TRAIN
from pipeline.status.words import ago, sparkline
from pipeline.system.progress import clock
from pipeline.system.terminal import Styled
from pipeline.system.text import printable
from pipeline.tracking.names import (
    KNN,
    LOSS_SHARE,
    PROBES,
    RANK_ME,
    RIDGE,
    VAL_LOSS,
    VAL_MAP,
    VAL_TOP1,
    VAL_TOP5,
    monitor_of,
)

#: Stopped and finished stages are listed this far; `--json` has all of it.
MOST_STOPPED, MOST_FINISHED = 8, 4
#: Letters of the reason why params.yaml cannot be read; `--json` has all.
MOST_FAULT = 200
#: Metrics that are shares, by the beginning of their labels: shown in percent.
SHARES = ("top1", "top5", "map", KNN, RIDGE, "loss share")
#: Beginnings of the names that have a place on the screen; `--json` has all.
SHOWN = (VAL_LOSS, VAL_TOP1, VAL_TOP5, VAL_MAP, LOSS_SHARE, RANK_ME, *(monitor_of(probe, "") for probe in PROBES))


def screen(status: Status) -> list[Styled]:
    """The whole screen, line by line."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.at))
    lines: list[Styled] = [(f"everest status on {printable(status.host)}, {moment}", "dim")]
    for checkout in status.checkouts:
        lines += [("", ""), *_checkout(checkout, status)]
    if not status.checkouts:
        lines.append(("Nothing runs, waits or was stopped here. `everest run` in a project's folder starts.", ""))
    if status.prefect is not None:
        lines += [("", ""), *_prefect(status)]
    if status.gpus or status.devices or status.queue:
        lines += [("", ""), *_devices(status)]
    return lines


def _checkout(checkout: Checkout, status: Status) -> Iterator[Styled]:
    name = f"recipe {printable(checkout.recipe)}" if checkout.recipe else "params.yaml cannot be read"
    yield f"{printable(checkout.folder)}  ({name})", "bold"
    if checkout.fault:
        text = printable(checkout.fault)
        yield f"  {text if len(text) <= MOST_FAULT else f'{text[:MOST_FAULT]} ...'}", "yellow"
    for command in checkout.commands:
        log = f", its output: {_short(command.log, checkout)}" if command.log else ""
        age = ago(status.at - command.since)
        yield f"  {printable(command.words)}: process {command.pid}, for {age}{log}", ""
    if checkout.spent:
        yield f"  budget: {checkout.spent} spent", "dim"
    running = [stage for stage in checkout.stages if stage.state == "running"]
    stopped = [stage for stage in checkout.stages if stage.state != "running"]
    for stage in running:
        yield from _running(stage, checkout, status)
    for wait in checkout.waits:
        yield f"  … {printable(wait.who)} waits for {printable(wait.waits_for)}", "yellow"
    if checkout.behind:
        yield f"  … then {printable(_order(checkout))}", "dim"
    for stage in stopped[:MOST_STOPPED]:
        yield f"  ■ {_title(stage)}  {printable(stage.sentence)}", "yellow" if stage.state == "stopped" else "red"
        if stage.message and stage.state != "stopped":
            yield f"      {printable(stage.message)}", ""
        if stage.training is not None and stage.training.loss:
            yield from _curves(stage.training)
            for alarm in stage.training.health or []:
                yield f"      health: {printable(alarm)}", "red"
        if stage.unsent:
            yield f"      {stage.unsent} tracking records are not sent yet: `everest sync`", ""
        if stage.log:
            yield f"      log: {_short(stage.log, checkout)}", "dim"
    if len(stopped) > MOST_STOPPED:
        yield f"  and {len(stopped) - MOST_STOPPED} more that were stopped: everest status --json", "dim"
    if checkout.finished:
        yield f"  ✓ {'; '.join(_finished(stage, status) for stage in checkout.finished[:MOST_FINISHED])}", "dim"
    if not (checkout.commands or checkout.stages or checkout.finished):
        yield "  nothing runs, waits or was stopped here" + ("" if checkout.fault else "; `everest run` starts"), "dim"


def _order(checkout: Checkout) -> str:
    """Stages that come next; those that wait for the same stand together."""
    by_cause: dict[str, list[str]] = {}
    for wait in checkout.behind:
        by_cause.setdefault(wait.waits_for, []).append(wait.who)
    (cause, first), *rest = by_cause.items()
    later = ", ".join(name for names in (names for _, names in rest) for name in names)
    return f"{', '.join(first)} (after {cause})" + (f", {later}" if later else "")


def _finished(stage: Finished, status: Status) -> str:
    result = f" ({stage.result})" if stage.result else ""
    return printable(f"{stage.stage} {ago(status.at - stage.at)} ago{result}")


def _title(stage: Stage) -> str:
    return printable(f"{stage.name} of {stage.series}" if stage.series else stage.name)


def _running(stage: Stage, checkout: Checkout, status: Status) -> Iterator[Styled]:
    figures = stage.training
    text = f"  ▶ {_title(stage)}  for {ago(status.at - stage.at)}"
    if figures is None:
        doing = stage.doing or ("starting" if stage.stage in TRAIN else "")
        yield text + (f"  {printable(doing)}" if doing else ""), "green"
    else:
        share = f" ({100 * figures.step / figures.steps:.0f} %)" if figures.steps else ""
        text += f"  step {figures.step}" + (f" of {figures.steps}{share}" if figures.steps else "")
        text += f"  {_rate(figures.rate)}" if figures.rate else ""
        text += f"  {clock(figures.left_seconds)} left" if figures.left_seconds is not None else ""
        yield text, "green"
        yield from _curves(figures)
        if figures.waits_at:
            yield f"      {figures.waits_at}", "yellow"
        if figures.health == []:
            yield f"      health: healthy{_looked(figures)}", "green"
        for alarm in figures.health or []:
            yield f"      health: {printable(alarm)}", "red"
        yield f"      {_machine(figures, status)}", ""
    if stage.log:
        yield f"      log: {_short(stage.log, checkout)}", "dim"


def _curves(figures: Training) -> Iterator[Styled]:
    parts = [("loss", figures.loss)] if figures.loss else []
    parts += [(_label(name), values) for name, values in figures.probes.items() if values and name.startswith(SHOWN)]
    for at in range(0, len(parts), 3):
        texts = [f"{name} {_value(name, values)} {sparkline(values, 16)}" for name, values in parts[at : at + 3]]
        yield f"      {'   '.join(texts)}", ""


def _looked(figures: Training) -> str:
    """Of which step the probes are: looks are rarer than steps."""
    if figures.looked_at is None:
        return ""
    following = "" if figures.next_look is None else f", looks again after step {figures.next_look}"
    return f" (probes of step {figures.looked_at}{following})"


def _label(name: str) -> str:
    """`knn motion` of `monitor/knn/motion`."""
    return name.partition("/")[2].replace("/", " ").replace("_", " ")


def _value(name: str, values: Sequence[float]) -> str:
    return f"{100 * values[-1]:.1f} %" if name.startswith(SHARES) else f"{values[-1]:.4g}"


def _rate(rate: float) -> str:
    return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s a step"


def _machine(figures: Training, status: Status) -> str:
    parts = []
    if figures.memory_gib is not None:
        parts.append(f"memory {figures.memory_gib:.2f} GiB")
    if figures.gpus:
        parts.append(f"on GPU {', '.join(map(str, figures.gpus))}")
    saved = figures.checkpoint
    age = f"{ago(status.at - saved.at)} ago" if saved else ""
    parts.append(f"last checkpoint at step {saved.step}, {age}" if saved else "no checkpoint yet")
    return "; ".join(parts)


def _gpu(gpu: Gpu) -> Styled:
    busy = "" if gpu.busy is None else f"  {100 * gpu.busy:.0f} % busy"
    watts = "" if gpu.watts is None else f"  {gpu.watts:.0f} W"
    return f"GPU {gpu.index} {gpu.name}{busy}  {gpu.memory_gib:.1f} of {gpu.total_gib:.0f} GiB{watts}", ""


def _devices(status: Status) -> Iterator[Styled]:
    """GPUs, who holds each, and who waits for some."""
    for gpu in status.gpus:
        yield _gpu(gpu)
        if gpu.held_by:
            yield f"      held by {printable(gpu.held_by)}", ""
    for device, who in status.devices.items():
        yield f"device {printable(device)}  held by {printable(who)}", ""
    for wait in status.queue:
        yield f"  … {printable(wait.who)} waits for {wait.waits_for}", "yellow"


def _prefect(status: Status) -> Iterator[Styled]:
    server = status.prefect
    if server is None:
        return
    if server.fault:
        yield printable(server.fault), "yellow"
        return
    yield f"Prefect at {server.address}: " + ("" if server.runs else "nothing runs or waits"), "bold"
    for run in server.runs:
        yield _flow_run(run, status), "green" if run.state == "Running" else ""


def _flow_run(run: FlowRun, status: Status) -> str:
    what = f"{run.deployment} " if run.deployment else ""
    since = f" for {ago(status.at - run.since)}" if run.since and run.state == "Running" else ""
    tasks = f": {', '.join(run.tasks)}" if run.tasks else ""
    waits = f"; waits for {run.waits_for}" if run.waits_for else ""
    return printable(f"  {what}{run.name} is {run.state}{since}{tasks}{waits}")


def _short(path: str | None, checkout: Checkout) -> str:
    """A path inside the checkout without it; relative to where the user is, if it is that checkout."""
    if path is None:
        return ""
    inside = Path(path).is_relative_to(checkout.folder) and Path.cwd() == Path(checkout.folder)
    return printable(os.path.relpath(path, checkout.folder) if inside else path)
