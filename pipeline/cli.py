"""The command line `everest`. Every command imports what it needs when it runs: `everest --help` stays fast.

Exit codes: 0 ok, 1 failed, 2 bad input, 130 stopped after saving.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import EverestError

app = typer.Typer(
    name="everest",
    help="EVEREST masked video pre-training, from raw videos to a comparable result with its cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Benchmark = Annotated[str, typer.Argument(help="A benchmark of params.yaml.")]


def main() -> None:
    """Entry point: turns our own errors into one message and an exit code."""
    try:
        app()
    except EverestError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


def emit(value: Any, as_json: bool, title: str | None = None) -> None:
    """Print a result: a JSON document, or tables made for reading."""
    if as_json:
        typer.echo(json.dumps(value, indent=2, default=str))
        return
    from pipeline.terminal import show

    show(value, title)


# --- the chain ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Chain")
def demo() -> None:
    """Run the demo from generated videos to the report (minutes on two cores); stop and start it as you like."""
    from pipeline.main_job import run_demo

    run_demo()


@app.command(rich_help_panel="Chain")
def run() -> None:
    """Run params.yaml as it stands, through Prefect, DVC and MLflow, on this machine."""
    from pipeline.main_job import run_experiment

    run_experiment()


def _stage(name: str, benchmark: str | None) -> None:
    from pipeline.stage_process import run_stage

    run_stage(name, benchmark)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def download(benchmark: Benchmark) -> None:
    """Fetch a benchmark's videos, decode each once, write the manifest and the quarantine list."""
    _stage("download", benchmark)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def preprocess(benchmark: Benchmark) -> None:
    """Write a benchmark's distance maps and cached frames."""
    _stage("preprocess", benchmark)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def corpus(benchmark: Benchmark) -> None:
    """List the videos of a benchmark that pre-training may see."""
    _stage("corpus", benchmark)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def pretrain() -> None:
    """Pre-train on the corpora that params.yaml names."""
    _stage("pretrain", None)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def finetune(benchmark: Benchmark) -> None:
    """Fine-tune on a benchmark."""
    _stage("finetune", benchmark)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def evaluate(benchmark: Benchmark) -> None:
    """Test on a benchmark with several views a video."""
    _stage("evaluate", benchmark)


@app.command(rich_help_panel="Stages (dvc.yaml calls these)")
def report() -> None:
    """Write the report of all benchmarks."""
    _stage("report", None)


# --- recipes and planning -----------------------------------------------------------------------------------------

recipe_app = typer.Typer(help="List, show, choose and compare recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe", rich_help_panel="Plan")


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """All recipes with a line each."""
    from pipeline import recipes

    emit(recipes.list_recipes(), as_json, "Recipes")


@recipe_app.command("show")
def recipe_show(name: str) -> None:
    """Print a recipe, comments and all."""
    from pipeline import recipes

    typer.echo(recipes.show_recipe(name))


@recipe_app.command("use")
def recipe_use(
    name: str,
    force: Annotated[bool, typer.Option(help="Overwrite a params.yaml that is no recipe's own text.")] = False,
) -> None:
    """Write a recipe to params.yaml."""
    from pipeline import recipes

    typer.echo(recipes.use_recipe(name, force=force))


@recipe_app.command("diff")
def recipe_diff(
    name: Annotated[str | None, typer.Argument(help="A recipe; params.yaml if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Name each deviation from the published recipe."""
    from pipeline import recipes

    emit(recipes.diff_recipe(name), as_json, "Deviations from the published recipe")


@app.command(rich_help_panel="Plan")
def doctor(as_json: Json = False) -> None:
    """Check this machine: GPUs, disk, decoders, archive tools, stores, data; each finding with its cure."""
    from pipeline.doctor import examine

    checks = examine()
    emit(checks, as_json, "Doctor")
    if any(check["status"] == "fail" for check in checks):
        raise typer.Exit(1)


@app.command(rich_help_panel="Look")
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's page.")] = 4200,
) -> None:
    """Serve MLflow's and Prefect's pages on this machine until Ctrl-C."""
    from pipeline.ui import serve

    serve(mlflow_port, prefect_port)
