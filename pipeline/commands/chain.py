"""The chain as a whole and stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.common import Json, commands, emit, emit_with_lines, whole_numbers, words

app = commands()
Benchmark = Annotated[str, typer.Argument(help="A benchmark of params.yaml.")]


@app.command()
def demo() -> None:
    """Run the demo from generated videos to the report; stop and start it as you like."""
    _experiment("demo")


@app.command()
def run() -> None:
    """Run params.yaml through Prefect, DVC and MLflow on this machine."""
    _experiment("run")


def _experiment(command: Literal["demo", "run"]) -> None:
    from pipeline.notices.told import told
    from pipeline.system.progress import watched

    with watched(command), told(f"everest {command}"):
        from pipeline.experiments.local import run_demo, run_experiment

        results = run_demo() if command == "demo" else run_experiment()
    from pipeline.commands.results import show_results

    show_results(*results)


def _stage(name: str, benchmark: str | None) -> object:
    from pipeline.notices.told import told
    from pipeline.system.progress import watched

    one = f"{name}@{benchmark}" if benchmark else name
    with watched(one), told(one):
        from pipeline.experiments.stage import run_stage

        return run_stage(name, benchmark)


@app.command()
def download(
    benchmark: Benchmark,
    dry_run: Annotated[bool, typer.Option(help="Only say which files would be fetched, with their sizes.")] = False,
    as_json: Json = False,
) -> None:
    """Stage: fetch videos, decode each once, write the manifest."""
    if not dry_run:
        return emit(_stage("download", benchmark), as_json, f"Videos of {benchmark}")
    from pipeline.params import load_params
    from pipeline.stages.download import plan

    return emit(plan(load_params(), benchmark), as_json, f"Would be fetched for {benchmark}")


@app.command()
def preprocess(benchmark: Benchmark) -> None:
    """Stage: write distance maps and cached frames."""
    _stage("preprocess", benchmark)


@app.command()
def corpus(benchmark: Benchmark) -> None:
    """Stage: list the videos that pre-training may see."""
    _stage("corpus", benchmark)


@app.command()
def baseline(benchmark: Benchmark, as_json: Json = False) -> None:
    """Stage: what trivial models reach, from small frames and their differences."""
    emit(_stage("baseline", benchmark), as_json, f"Trivial models on {benchmark}")


@app.command()
def pretrain() -> None:
    """Stage: pre-train on the corpora that params.yaml names."""
    _stage("pretrain", None)


@app.command()
def finetune(benchmark: Benchmark) -> None:
    """Stage: fine-tune on a benchmark."""
    _stage("finetune", benchmark)


@app.command()
def evaluate(benchmark: Benchmark) -> None:
    """Stage: test on a benchmark with several views a video."""
    _stage("evaluate", benchmark)


@app.command()
def report() -> None:
    """Stage: write the report of all benchmarks."""
    _stage("report", None)


@app.command()
def compare(
    strategies: Annotated[
        str | None,
        typer.Option(
            help="With commas; the first sets the budget: everest, tube, random, scratch, everest-keep-0.4 ..."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="With commas; one training of each strategy for each.")] = None,
    equal: Annotated[
        str | None, typer.Option(help="What pre-trainings spend alike: multiply-adds, wall-time or epochs.")
    ] = None,
    benchmarks: Annotated[str | None, typer.Option(help="With commas; fine-tuned and tested on these.")] = None,
    stop: Annotated[
        str | None, typer.Option(help="futile: stop a strategy early that cannot win any more (compare.slices).")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A comparison in each cell of a map of drawn videos (plans/map.yaml).")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Compare pre-training strategies at equal cost over several seeds, with intervals.

    What is left out comes from params.yaml, group `compare`; with --plan all comes from that file and its recipe.
    Stopped, the same command continues.
    """
    from pipeline.notices.told import told
    from pipeline.system.progress import watched

    given = {
        "strategies": words(strategies),
        "seeds": whole_numbers("seeds", seeds, "0,1,2") if seeds else None,
        "equal": equal,
        "benchmarks": words(benchmarks),
        "stop": stop,
    }
    overrides = {f"compare.{name}": value for name, value in given.items() if value is not None}
    if plan is not None:
        return _map(plan, overrides, dry_run, as_json)
    with watched("compare"), told("everest compare"):
        from pipeline.experiments.compare import command

        result = command(overrides, dry_run)
    if as_json or dry_run:
        return emit(result, as_json, "Comparison")
    from pipeline.commands.results import show_comparison

    return show_comparison(result)


def _map(plan: Path, given: Mapping[str, object], dry_run: bool, as_json: bool) -> None:
    from pipeline.errors import InputError
    from pipeline.notices.told import told
    from pipeline.system.progress import watched
    from pipeline.system.terminal import echo

    if given:
        named = ", ".join(f"--{name.removeprefix('compare.')}" for name in given)
        raise InputError(f"{named} with --plan {plan}: the plan says all of it. Cure: change the plan.")
    with watched("compare"), told(f"everest compare --plan {plan}"):
        from pipeline.map.map import command

        result = command(plan, dry_run)
    if as_json:
        return emit(result, as_json)
    emit(result["cells"], as_json, "Cells")
    for sentence in result.get("sentences", []):
        echo(f"- {sentence}")
    if "report" in result:
        echo(f"Report: {result['report']}")
    return None


@app.command()
def repeat(
    splits: Annotated[str | None, typer.Option(help="With commas; all three of UCF101 and HMDB51 if left out.")] = None,
    seeds: Annotated[str, typer.Option(help="With commas; one experiment of each split for each.")] = "0",
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Run params.yaml on every official split with several seeds; mean and deviation."""
    from pipeline.notices.told import told
    from pipeline.system.progress import watched

    chosen = whole_numbers("splits", splits, "1,2") if splits else None
    chosen_seeds = whole_numbers("seeds", seeds, "1,2")
    with watched("repeat"), told("everest repeat"):
        from pipeline.experiments.repeat import command

        result = command(chosen, chosen_seeds, dry_run)
    emit_with_lines(result, as_json, "Repetitions", result.get("sentences", []))


@app.command()
def paper(
    out: Annotated[Path, typer.Option(help="Folder to write; one that this command made before is replaced.")] = Path(
        "outputs/paper"
    ),
    as_json: Json = False,
) -> None:
    """Write finished experiments as tables (LaTeX, Markdown) and figures (PDF), with the origin of each number."""
    from pipeline.paper.kit import command

    result = command(out)
    if as_json:
        return emit(result, True)
    left_out = result["left_out"]
    shown = {name: value for name, value in result.items() if name != "left_out"}
    return emit_with_lines(shown | {"lines": left_out}, False, "Paper", left_out, "not in it, or not known: ")


@app.command()
def sync(as_json: Json = False) -> None:
    """Send tracking records that a server outage held back."""
    from pipeline.tracking.sync import command

    emit(command(), as_json, "Sent")
