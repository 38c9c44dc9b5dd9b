"""Where a run comes from: code, data and surroundings, as tags and texts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import yaml

from pipeline.layout import RUN_VARIABLE
from pipeline.params import lookup
from pipeline.params.frozen import params_content
from pipeline.system import git
from pipeline.system.text import printable

#: Value of a tag whose truth nobody could be asked for.
UNKNOWN = "unknown"
#: Files that a stage itself rewrites; a difference in them does not make the code another one.
GENERATED = ("dvc.lock", "compare/dvc.lock", ".dvc/")
#: What each stage's results depend on, as DVC output paths, the data first: {b} the benchmark, {c} each corpus of
#: pre-training, {init} what fine-tuning starts from.
STAGE_INPUTS = {
    "download": (),
    "preprocess": ("data/manifests/{b}",),
    "baseline": ("data/cache/{b}", "data/manifests/{b}"),
    "corpus": ("data/cache/{b}", "data/manifests/{b}"),
    "pretrain": ("data/corpus/{c}.parquet", "data/cache/{c}"),
    "finetune": ("data/cache/{b}", "data/manifests/{b}", "{init}"),
    "evaluate": ("data/cache/{b}", "data/manifests/{b}", "outputs/finetune/{b}"),
    "report": ("outputs/evaluate/", "outputs/finetune/", "outputs/baseline/", "{init}"),
    "compare": ("data/corpus/", "data/cache/", "data/manifests/", "outputs/baseline/"),
}


def code_tags() -> dict[str, str]:
    """git.commit, git.branch and git.dirty of the folder; `unknown`, and why, where git cannot tell."""
    commit, branch = git.ask("rev-parse", "HEAD"), git.ask("rev-parse", "--abbrev-ref", "HEAD")
    changes, reason = dirty_files()
    reasons = list(dict.fromkeys(filter(None, (commit.reason, branch.reason, reason))))
    tags = {
        "git.commit": UNKNOWN if commit.text is None else commit.text.strip(),
        "git.branch": UNKNOWN if branch.text is None else branch.text.strip(),
        "git.dirty": UNKNOWN if changes is None else "true" if changes else "false",
    }
    return tags | ({"git.unknown": "; ".join(reasons)} if reasons else {})


def uncommitted(tags: Mapping[str, str]) -> str:
    """What the tags of a run say of uncommitted changes, as the end of a sentence; empty where there were none."""
    if tags.get("git.dirty") == "false":
        return ""
    if tags.get("git.dirty") == "true":
        return ", with uncommitted changes"
    reason = tags.get("git.unknown")
    return ", uncommitted changes unknown" + (f": {reason}" if reason else "")


def dirty_files() -> tuple[list[str] | None, str]:
    """Lines of `git status --porcelain`; None, with the reason, where git cannot tell.

    They are of tracked files that differ from the commit and of files unknown to git; what stages rewrite is left out.
    """
    status = git.ask("status", "--porcelain", "--untracked-files=normal")
    if status.text is None:
        return None, status.reason
    return [line for line in status.text.splitlines() if not line[3:].startswith(GENERATED)], ""


def dirty_diff() -> git.Answer:
    """The change of tracked files against the commit, of the whole checkout; empty where there is none."""
    return git.ask("diff", "HEAD", "--", ":(top)", *(f":(top,exclude){name}" for name in GENERATED))


class LockedFile(TypedDict, total=False):
    """A dependency or an output in dvc.lock; its hash is `md5`, or `hash_value` where DVC made another."""

    path: str
    md5: str
    hash_value: str


class LockedStage(TypedDict, total=False):
    """What dvc.lock notes of a stage: its command, files, and parameters by params file."""

    cmd: str
    deps: list[LockedFile]
    outs: list[LockedFile]
    params: dict[str, dict[str, object]]


def dvc_stages(lock: Path = Path("dvc.lock")) -> dict[str, LockedStage]:
    """The stages in dvc.lock; {} where there is none yet, or a part of one."""
    try:
        content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError):
        return {}
    return content.get("stages", {}) if isinstance(content, dict) else {}


def dvc_hashes(lock: Path = Path("dvc.lock")) -> dict[str, str]:
    """Path -> content hash of every output in dvc.lock."""
    return output_hashes(dvc_stages(lock))


def output_hashes(stages: Mapping[str, LockedStage]) -> dict[str, str]:
    """Path -> content hash of every output of stages in dvc.lock."""
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: out.get("md5") or out.get("hash_value", "") for out in outs if "path" in out}


def stage_inputs(stage: str, benchmark: str | None) -> dict[str, str]:
    """Path -> hash of what the stage reads, the data first.

    A training of a comparison has the checkout's dvc.lock and data by a link, and models of its own, of which dvc.lock
    knows nothing.
    """
    lock = Path("dvc.lock")
    hashes = dvc_hashes(lock)
    root = lock.resolve().parent
    params = params_content()
    named = lookup(params, "pretrain.corpus")
    corpora = named if isinstance(named, list) else []
    init = lookup(params, "finetune.init") or ""
    wanted = [
        pattern.format(b=benchmark, c=corpus, init=init)
        for pattern in STAGE_INPUTS.get(stage, ())
        for corpus in (corpora if "{c}" in pattern else [""])
    ]
    return {
        path: hashes[path]
        for prefix in wanted
        for path in sorted(hashes)
        if (path == prefix or (prefix.endswith("/") and path.startswith(prefix)))
        and Path(path).parent.resolve() == (root / path).parent.resolve()
    }


def stage_tags(stage: str, benchmark: str | None) -> dict[str, str]:
    """All tags that say where a stage's run comes from."""
    tags = code_tags()
    tags["dvc.stage"] = f"{stage}@{benchmark}" if benchmark else stage
    inputs = stage_inputs(stage, benchmark)
    data = [value for path, value in inputs.items() if path.startswith("data/")]
    if data:
        tags["dvc.data_hash"] = "+".join(data) if stage == "pretrain" else data[0]
    flow = flow_run()
    if flow:
        tags["prefect.flow_run_id"] = flow
    return tags | series_tags()


def series() -> tuple[str, str] | None:
    """The series that this process's training belongs to, and its name there; None for the chain's own.

    ("comparison", `<strategy>-seed<n>`) or ("repetition", `split<n>-seed<k>`).
    """
    for kind, variable in (("comparison", "EVEREST_COMPARE"), ("repetition", "EVEREST_REPEAT")):
        if os.environ.get(variable):
            return kind, os.environ[variable]
    return None


def series_tags() -> dict[str, str]:
    """`everest.<kind>`: its name in the series that it is one of; of a comparison also `everest.strategy`."""
    member = series()
    if member is None:
        return {}
    kind, name = member
    strategy = {"everest.strategy": name.rpartition("-seed")[0]} if kind == "comparison" else {}
    return {f"everest.{kind}": name, **strategy}


def registered_name(recipe: str, benchmark: str) -> str:
    """The name in the model registry: `everest-<recipe>-<benchmark>`.

    Trainings of a series add `-comparison` or `-repetition`. Under names of their own, since the alias `candidate` is
    the last one that came: what a user is told to classify with must not be one of a series.
    """
    member = series()
    return f"everest-{registry_word(recipe)}-{benchmark}" + (f"-{member[0]}" if member else "")


def registry_word(name: str) -> str:
    """A name as part of a registered model's: what the registry, its addresses or its queries refuse, as `~2f`."""
    shown = printable(name)
    return re.sub("[][/:@%'\"`~\\\\]", lambda match: f"~{ord(match.group()):02x}", shown)


def flow_run() -> str | None:
    """The id of the Prefect flow run that this process works for."""
    names = (RUN_VARIABLE, "PREFECT__FLOW_RUN_ID")
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def environment_lock() -> str:
    """`name==version` of every installed package, sorted."""
    pairs = {(dist.metadata["Name"] or "").lower(): dist.version for dist in metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(pairs.items()) if name)
