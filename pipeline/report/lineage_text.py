"""What `everest lineage` found, as text for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.params import flatten
from pipeline.system.text import printable

#: Digits of a hash that are shown; `--json` has all of them.
DIGITS = 12


def describe(found: dict[str, Any]) -> str:
    """The run, then every stage from the one that wrote the file back to the data."""
    return "\n".join(map(printable, _lines(found)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    state = {True: "as its stage wrote it", False: "CHANGED since its stage wrote it"}
    note = state.get(found.get("unchanged"))  # type: ignore[arg-type]
    yield found["target"] + (f"   ({note})" if note else "")
    run = found.get("run")
    if run:
        yield from _run(run)
    elif "run_unknown" in found:
        yield f"  run      unknown: {found['run_unknown']}"
    for stage in found.get("stages", []):
        yield ""
        yield f"{stage['stage']}   {stage['command']}"
        yield from _hashes("wrote", stage["writes"])
        yield from _hashes("read", stage["reads"])
        yield from _params(flatten(stage["params"]))


def _run(run: dict[str, Any]) -> Iterator[str]:
    yield f"  run      {run['id']}  {run['name']}  {run['status']}"
    if run["parent"]:
        yield f"  parent   {run['parent']['id']}  {run['parent']['name']}"
    if run["flow_run"]:
        yield f"  flow     {run['flow_run']}"
    code = run["code"]
    if code:
        state = uncommitted(code)
        yield f"  code     {code.get('git.commit', 'unknown')} ({code.get('git.branch', 'unknown')}{state})"
    else:
        yield "  code     unknown: the run recorded none"
    for name, value in run.get("resumed", {}).items():
        yield f"  resumed  {name.removeprefix('resumed.')} = {value}"
    yield from _hashes("data", run["data"])
    yield from _hashes("sha256", run["files"])
    for earlier in run["weights_from"]:
        yield f"  weights  of run {earlier['id']}  {earlier['name']}"
    for address in run["models"]:
        yield f"  model    {address}"
    scores = {name: value for name, value in run["metrics"].items() if name.startswith(("eval/", "val/", "train/loss"))}
    for name, value in sorted(scores.items()):
        yield f"  metric   {name} = {value:.6g}"
    yield from _params(run["params"])


def uncommitted(code: dict[str, str]) -> str:
    """What the tags of a run say of uncommitted changes, as the end of a sentence; empty where there were none."""
    if code.get("git.dirty") == "false":
        return ""
    if code.get("git.dirty") == "true":
        return ", with uncommitted changes"
    reason = code.get("git.unknown")
    return ", uncommitted changes unknown" + (f": {reason}" if reason else "")


def _hashes(word: str, values: dict[str, str]) -> Iterator[str]:
    for path, digest in values.items():
        yield f"  {word:<7}  {path}  {digest[:DIGITS]}"


def _params(values: dict[str, Any]) -> Iterator[str]:
    line = "  params  "
    for name, value in values.items():
        item = f" {name}={value}"
        if len(line) + len(item) > 118:
            yield line
            line = "          "
        line += item
    if line.strip() != "params":
        yield line
