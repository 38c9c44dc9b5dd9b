"""`everest status`: one look at everything that runs, waits or was stopped. It locks nothing and writes nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import layout
from pipeline.budget.ledger import named_ledger, read_executions, total
from pipeline.budget.limit import share_of
from pipeline.distributed.device_table import device_table
from pipeline.distributed.devices import lock_name
from pipeline.errors import InputError, parted
from pipeline.params import Params, load_params
from pipeline.params.declared import sources, stages
from pipeline.status.gpus import gpus, held_by, holder_words
from pipeline.status.places import checkouts, places
from pipeline.status.prefect import ask_prefect
from pipeline.status.processes import Process, log_of, ours
from pipeline.status.records import Checkout, Command, Finished, Gpu, Orchestrator, Stage, Status, Wait
from pipeline.status.stages import read_stages
from pipeline.system.locks import holders
from pipeline.system.processes import describe
from pipeline.tracking.headline import words

#: [s] for which a finished stage is listed; between two questions to Prefect while watching.
LISTED_SECONDS, ASK_SECONDS = 86_400.0, 10.0
#: The chain's own commands: they hold `.work/experiment.lock` while they run it.
CHAIN = ("run", "demo")


class Looker:
    """Looks again and again; asks Prefect less often than the disk."""

    def __init__(self) -> None:
        self._prefect: Orchestrator | None = None
        self._asked = 0.0

    def look(self) -> Status:
        """The state of everything now."""
        processes = ours()
        roots = checkouts(process.folder for process in processes)
        table = device_table()
        held = held_by(table)
        cards = gpus(held)
        on_cards = {lock_name(card.uuid) for card in cards}
        if not self._asked or time.monotonic() - self._asked > ASK_SECONDS:
            self._prefect, self._asked = ask_prefect(roots), time.monotonic()
        return Status(
            host=socket.gethostname(),
            at=time.time(),
            checkouts=[read_checkout(root, processes, cards) for root in roots],
            gpus=cards,
            prefect=self._prefect,
            devices={device: who for device, who in held.items() if device not in on_cards},
            queue=[Wait(holder_words(one.holder), f"{one.count} GPU(s)") for one in table.waiting],
        )


def read_checkout(root: Path, processes: Sequence[Process], cards: Sequence[Gpu]) -> Checkout:
    """Everything in one checkout."""
    here = [process for process in processes if root == process.folder or root in process.folder.parents]
    read = {place: _params(place.folder) for place in places(root)}
    params = {place: its if isinstance(its, Params) else None for place, its in read.items()}
    fault = read[places(root)[0]]
    seen = [stage for place, its in params.items() for stage in read_stages(place, its, cards)]
    chain = params[places(root)[0]]
    held = holders(root / layout.WORK / "experiment.lock").holder is not None
    return Checkout(
        folder=str(root),
        recipe=chain.recipe if chain else "",
        commands=[Command(p.pid, p.text, p.since, log_of(p.pid)) for p in here],
        stages=sorted(seen, key=lambda stage: (stage.state != "running", stage.series, -stage.at)),
        waits=_processes_that_wait(root, here),
        behind=_stages_that_wait(chain, seen) if chain and held else [],
        finished=_finished(root, chain, seen) if chain else [],
        fault=fault if isinstance(fault, str) else "",
        spent=_spent(root, chain) if chain and chain.compute.budget else "",
    )


def _spent(root: Path, params: Params) -> str:
    """What the chain has taken of its budget until the last record, at most 5 s ago."""
    try:
        return share_of(params.compute, total(read_executions(named_ledger(params, work=root / layout.WORK))))
    except InputError as error:
        return f"an unknown part ({parted(error)[0]})"


def _params(folder: Path) -> Params | str:
    """A folder's parameters, or why they cannot be read: somebody edits them."""
    try:
        return load_params(folder / "params.yaml")
    except InputError as error:
        return str(error).splitlines()[0].replace(str(folder), "").lstrip("/")


def _processes_that_wait(root: Path, processes: Sequence[Process]) -> list[Wait]:
    """Those that the kernel keeps waiting for a lock, and commands that wait for DVC."""
    training = holders(root / layout.TRAINING_LOCK)
    waits = [Wait(describe(pid), f"the training of {describe(training.holder or 0)}") for pid in training.waiting]
    busy = holders(root / ".dvc" / "tmp" / "lock").holder
    experiment = holders(root / layout.WORK / "experiment.lock").holder
    if busy is None:
        return waits
    late = [p for p in processes if p.verb in CHAIN and p.pid != experiment and p.folder == root]
    return waits + [Wait(describe(process.pid), f"DVC's lock, which {describe(busy)} holds") for process in late]


def _stages_that_wait(params: Params, seen: Sequence[Stage]) -> list[Wait]:
    """What of the chain comes after the stages that run."""
    content = params.model_dump(mode="json")
    running = {stage.name for stage in seen if stage.state == "running" and not stage.series}
    after = dict.fromkeys(running, "")
    waits: list[Wait] = []
    for stage in stages(content):
        above = [source.address for source in sources(stage, content) if source.address in after]
        if above and stage.address not in after and stage.name != "compare":
            after[stage.address] = above[0]
            waits.append(Wait(stage.address, ", ".join(above)))
    return waits


def _finished(root: Path, params: Params, seen: Sequence[Stage]) -> list[Finished]:
    """Stages of the chain that ended well within the last day, with their results; the newest first."""
    unfinished = {stage.name for stage in seen if not stage.series}
    ended = []
    for stage in stages(params.model_dump(mode="json")):
        try:
            at = (root / layout.record_file(stage.name, stage.key)).stat().st_mtime
        except FileNotFoundError:
            continue
        if time.time() - at < LISTED_SECONDS and stage.address not in unfinished:
            ended.append(Finished(stage.address, at, words(stage.name, stage.key, root)))
    return sorted(ended, key=lambda stage: -stage.at)
