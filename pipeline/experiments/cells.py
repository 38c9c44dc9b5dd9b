"""One training of a comparison: a folder of its own, where the ordinary stages run over this project's data.

    .work/compare/<strategy>-seed<n>-<key>/
      params.yaml  data, dvc.lock -> the project's
      outputs/  metrics/  .work/         as in the project itself

The key holds the parameters and the data's content, so a finished stage is never run again and never taken for
another one's. What the project's own chain has trained with the same parameters is taken over, and so is what another
training of the comparison has: strategies that share a pre-training, or differ in the test alone, train once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from pipeline import layout
from pipeline.errors import DamagedError, Paused
from pipeline.experiments.workspace import Report, Run, Step, Workspace, environment, result_values, training_steps
from pipeline.model_folder import FILES
from pipeline.params import SCRATCH, Params, load_params
from pipeline.params.declared import address, corpus_inputs, values, work_key
from pipeline.params.records import REST_SECONDS, differences, finished, read_record
from pipeline.planning.equal import Trial
from pipeline.system.files import link, read_json, sha256_of
from pipeline.system.processes import PAUSE_AT, pause_step, run_child

#: Stage -> the stage whose weights it starts from.
STARTS_FROM = {"finetune": "pretrain", "evaluate": "finetune"}


def cells_root() -> Path:
    """`.work/compare`; EVEREST_CELLS puts it elsewhere, for a checkout that is removed when its work is done."""
    return Path(os.environ.get("EVEREST_CELLS") or layout.WORK / "compare").absolute()


def cell(trial: Trial) -> Path:
    """The folder of a training: the settled one, else that which everything that makes its result names now."""
    if trial.folder is not None:
        return trial.folder
    return _named(trial, locked_hashes())


def _named(trial: Trial, locked: Mapping[str, str]) -> Path:
    data = data_hashes(locked, trial.benchmarks, trial.corpora)
    return cells_root() / f"{trial.name}-{layout.fingerprint([_result_values(trial, trial.params), data])}"


def settled(trials: Iterable[Trial]) -> list[Trial]:
    """The same trainings, in the folders that they have now, whatever DVC makes in the project while they run."""
    locked = locked_hashes()
    return [replace(trial, folder=trial.folder or _named(trial, locked)) for trial in trials]


def run_cell(trial: Trial, note: str = "", run: Run = run_child, others: Sequence[Trial] = ()) -> Path:
    """Run the stages of one training that are not done yet.

    Args:
        others: trainings of the same comparison, whose finished stages are taken over where they are this one's too.

    Raises:
        EverestError: a stage failed.
        Interrupted: Ctrl-C; what was done is kept.
    """
    return _run(trial, stages_of(trial), note, run, others)


def run_slice(trial: Trial, share: float, note: str = "", run: Run = run_child) -> bool:
    """Pre-train a training's cell up to a share of its steps; whether it has ended (it may have been made before).

    Raises:
        EverestError, Interrupted: as :func:`run_cell`.
    """
    if pretrained_share(trial) >= share:
        return finished("pretrain", None, cell(trial))
    try:
        _run(trial, [("pretrain", None)], note, run, variables={PAUSE_AT: f"{share:.9f}"})
    except Paused:
        return False
    return True


def pretraining(trial: Trial) -> Path | None:
    """The work folder of a cell's unfinished pre-training, as its next start takes it up; None where there is none."""
    key = work_key("pretrain", None, trial.params, corpus_inputs(trial.params.pretrain.corpus))
    work = cell(trial) / layout.work_dir("pretrain", None, key)
    return work if (work / "checkpoints").is_dir() else None


def pretrained_share(trial: Trial) -> float:
    """The share of a pre-training's steps that is done and saved."""
    if finished("pretrain", None, cell(trial)):
        return 1.0
    step, total = _saved_step(trial)
    # A pause is at a whole step: half a step less is the same share.
    return (step + 0.5) / total if total else 0.0


def is_past(trial: Trial, share: float) -> bool:
    """Whether a pre-training is done further than a slice up to that share pauses it."""
    step, total = _saved_step(trial)
    return finished("pretrain", None, cell(trial)) or (total > 0 and step > pause_step(share, total))


def _saved_step(trial: Trial) -> tuple[int, int]:
    """The last step of an unfinished pre-training that is saved, and of how many; (0, 0) where none is."""
    work = pretraining(trial)
    steps = layout.checkpoint_steps(work / "checkpoints") if work else []
    total = read_json(work / "length.json").get("steps") if work else None
    return (steps[-1], total) if steps and total else (0, 0)


def _run(
    trial: Trial,
    steps: list[Step],
    note: str,
    run: Run,
    others: Sequence[Trial] = (),
    variables: Mapping[str, str] | None = None,
) -> Path:
    root, folder = Path.cwd(), cell(trial)
    place = Workspace(
        trial.name,
        folder,
        root,
        environment(root, root, folder / layout.WORK, EVEREST_COMPARE=trial.name, **(variables or {})),
    )
    place.prepare(trial.params, {name: (root / name).resolve() for name in ("data", "dvc.lock")})
    report = Report(
        note=note,
        stopped="comparison stopped; the same command continues it.",
        cure="mend what its message above names; the same command continues.",
        whose=f" of {trial.arm}, seed {trial.seed},",
        where=f" in {folder}",
    )
    taken_over = functools.partial(_take_over, trial, folder, others)
    place.run(steps, trial.params, report, take_over=taken_over, run=run)
    return folder


def stages_of(trial: Trial) -> list[Step]:
    """The stages of one training, in order."""
    return training_steps(trial.benchmarks, pretrains=trial.params.finetune.init != SCRATCH)


def _take_over(trial: Trial, folder: Path, others: Sequence[Trial], stage: str, benchmark: str | None) -> str:
    """Link in what the project's chain or another training made by this stage, and say whose it is; else ""."""
    own = _made(Path(), stage, benchmark) and _result_values(trial, trial.params) == _result_values(
        trial, load_params()
    )
    if own and _up_to_date(address(stage, benchmark)):
        _link_in(Path(), folder, stage, benchmark)
        return "this project's own run"
    wanted = values(stage, benchmark, trial.params)
    for other in others:
        source = cell(other)
        if source == folder or not _made(source, stage, benchmark):
            continue
        same = not list(differences(read_record(stage, benchmark, source) or {}, wanted))
        before = STARTS_FROM.get(stage)
        if same and (before is None or _same_model(source, folder, before, benchmark)):
            _link_in(source, folder, stage, benchmark)
            return f"{other.arm}, seed {other.seed}"
    return ""


def _made(source: Path, stage: str, benchmark: str | None) -> bool:
    """Whether a folder holds a stage's finished result."""
    return (source / layout.metrics_file(stage, benchmark)).exists() and finished(stage, benchmark, source)


def _same_model(source: Path, folder: Path, stage: str, benchmark: str | None) -> bool:
    """Whether two trainings have the same weights by a stage; from scratch neither has pre-trained any."""
    path = layout.output_dir(stage, None if stage == "pretrain" else benchmark) / FILES[0]
    both = (source / path).is_file(), (folder / path).is_file()
    return all(both) and sha256_of(source / path) == sha256_of(folder / path) if any(both) else True


def _link_in(source: Path, folder: Path, stage: str, benchmark: str | None) -> None:
    output = layout.output_dir(stage, benchmark)
    shutil.rmtree(folder / output, ignore_errors=True)
    (folder / output).parent.mkdir(parents=True, exist_ok=True)
    # Not `copytree`: DVC replaces an output, it never writes into one, so the bytes can be shared.
    shutil.copytree(source / output, folder / output, copy_function=link)
    for file in (layout.metrics_file(stage, benchmark), layout.record_file(stage, benchmark)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, folder / file)


def _up_to_date(stage: str) -> bool:
    """Whether DVC would run neither the stage nor one before it: alone, the test of a stale training looks fresh."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--with-deps", "--json", stage]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == "{}"


def _result_values(trial: Trial, params: Params) -> dict[str, object]:
    return result_values(params, {*trial.benchmarks, *trial.corpora})


def locked_hashes() -> dict[str, str]:
    """What DVC says that the project's outputs are, by their paths; nothing where it has made none.

    Raises:
        DamagedError: dvc.lock is no YAML, and does not become any.
    """
    from pipeline.tracking.context import output_hashes

    lock, before = Path("dvc.lock"), None
    while lock.is_file():
        text = lock.read_text(encoding="utf-8")
        with contextlib.suppress(yaml.YAMLError):
            if isinstance(content := yaml.safe_load(text), dict):
                return output_hashes(content.get("stages", {}))
        if text == before:
            raise DamagedError(f"{lock} is damaged: it is not what DVC writes. Cure: `git checkout {lock}`.")
        before = text
        time.sleep(REST_SECONDS)  # DVC writes it in place
    return {}


def data_hashes(locked: Mapping[str, str], benchmarks: Iterable[str], corpora: Iterable[str]) -> dict[str, str]:
    """What :func:`locked_hashes` says of the data of these."""
    corpora = list(corpora)
    used = {str(folder(name)) for name in [*benchmarks, *corpora] for folder in (layout.cache_dir, layout.manifest_dir)}
    used |= {str(layout.corpus_file(name)) for name in corpora}
    return {path: value for path, value in sorted(locked.items()) if path in used}
