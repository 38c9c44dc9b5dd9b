"""The lineage of a file, a model or a run, as text for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.experiments.lineage import Lineage, RunFacts
from pipeline.params import flatten
from pipeline.system.text import printable
from pipeline.tracking import names
from pipeline.tracking.context import uncommitted

#: Digits of a hash that are shown; `--json` has all of them.
DIGITS = 12


def describe(lineage: Lineage) -> str:
    """The run, then every stage from the one that wrote the file back to the data."""
    return "\n".join(map(printable, _lines(lineage)))


def _lines(lineage: Lineage) -> Iterator[str]:
    unchanged = lineage.get("unchanged")
    state = "as its stage wrote it" if unchanged else "CHANGED since its stage wrote it"
    yield lineage["target"] + (f"   ({state})" if unchanged is not None else "")
    run = lineage.get("run")
    if run:
        yield from _run(run)
    elif "run_unknown" in lineage:
        yield f"  run      unknown: {lineage['run_unknown']}"
    for stage in lineage.get("stages", []):
        yield ""
        yield f"{stage['stage']}   {stage['command']}"
        yield from _hashes("wrote", stage["writes"])
        yield from _hashes("read", stage["reads"])
        yield from _params(flatten(stage["params"]))


def _run(run: RunFacts) -> Iterator[str]:
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
    for name, value in run["resumed"].items():
        yield f"  resumed  {name.removeprefix('resumed.')} = {value}"
    yield from _hashes("data", run["data"])
    yield from _hashes("sha256", run["files"])
    for earlier in run["weights_from"]:
        yield f"  weights  of run {earlier['id']}  {earlier['name']}"
    for address in run["models"]:
        yield f"  model    {address}"
    scores = {name: value for name, value in run["metrics"].items() if name.startswith(names.RESULTS)}
    for name, score in sorted(scores.items()):
        yield f"  metric   {name} = {score:.6g}"
    yield from _params(run["params"])


def _hashes(word: str, values: Mapping[str, str]) -> Iterator[str]:
    for path, digest in values.items():
        yield f"  {word:<7}  {path}  {digest[:DIGITS]}"


def _params(values: Mapping[str, object]) -> Iterator[str]:
    line = "  params  "
    for name, value in values.items():
        item = f" {name}={value}"
        if len(line) + len(item) > 118:
            yield line
            line = "          "
        line += item
    if line.strip() != "params":
        yield line
