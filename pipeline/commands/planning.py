"""Before anything runs: recipes, costs, the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import Json, commands, emit, emit_with_lines, whole_numbers

app = commands()
Videos = Annotated[
    list[str] | None,
    typer.Option(help="NAME=TRAINING_VIDEOS or NAME=VIDEOSxFRAMES, where nothing here tells; may be repeated."),
]
Calibration = Annotated[
    Path | None, typer.Option(help="calibration.json of `everest bench gpu`; those of this version if left out.")
]
Recipe = Annotated[str | None, typer.Option(help="A recipe; params.yaml if left out.")]
Mfu = Annotated[float | None, typer.Option(help="Share of the peak to assume.")]
recipe_app = typer.Typer(help="List, show, choose and compare recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """All recipes with a line each."""
    from pipeline import recipes

    emit(recipes.list_recipes(), as_json, "Recipes")


@recipe_app.command("show")
def recipe_show(name: str) -> None:
    """Print a recipe, comments and all."""
    from pipeline import recipes
    from pipeline.system.terminal import echo

    echo(recipes.show_recipe(name), nl=False)


@recipe_app.command("use")
def recipe_use(
    name: str,
    force: Annotated[bool, typer.Option(help="Overwrite a params.yaml that is no recipe's own text.")] = False,
) -> None:
    """Write a recipe to params.yaml."""
    from pipeline import recipes
    from pipeline.system.terminal import echo

    echo(recipes.use_recipe(name, force=force))


@recipe_app.command("diff")
def recipe_diff(
    name: Annotated[str | None, typer.Argument(help="A recipe; params.yaml if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Name each deviation from the published recipe."""
    from pipeline import recipes

    emit(recipes.diff_recipe(name), as_json, "Deviations from the published recipe")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check GPUs, disk, decoders, archive tools, stores and data; each finding with its cure."""
    from pipeline.doctor import examine

    checks = examine()
    emit(checks, as_json, "Doctor")
    if any(check["status"] == "fail" for check in checks):
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: Recipe = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            "--device",
            help="h100, h200, a100-80, a100-40, a6000, 4090, or cpu for this machine; compute.planned_for if left out.",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(help="How many; what compute.gpus or compute.ranks gives each stage if left out."),
    ] = None,
    mfu: Mfu = None,
    videos: Videos = None,
    calibration: Calibration = None,
    as_json: Json = False,
) -> None:
    """Predict cost, memory, time and disk of a recipe, and a batch that fits; exit code 1 where none does."""
    from pipeline.planning.plan import plan as predict

    result = predict(recipe, gpu, gpus, mfu, videos=videos or (), calibration=calibration)
    # The verdict stands below; that nothing was promised needs no row.
    shown = result if as_json else {key: value for key, value in result.items() if key != "verdict" and value != []}
    emit_with_lines(shown, as_json, "Plan", result["assumptions"], "  assumed: ")
    if result["verdict"] and not as_json:
        from pipeline.system.terminal import echo

        echo(f"The plan {result['verdict']}")
    if not all(stage["fits"] for stage in result["stages"]):
        raise typer.Exit(1)


@app.command()
def scaling(
    recipe: Recipe = None,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100-80, a100-40, a6000 or 4090.")] = "h100",
    gpus: Annotated[str, typer.Option(help="How many, with commas.")] = "8,16,32,64,128",
    mfu: Mfu = None,
    store: Annotated[str | None, typer.Option(help="jpeg or raw, in place of the recipe's cache.")] = None,
    videos: Videos = None,
    calibration: Calibration = None,
    published: Annotated[bool, typer.Option(help="Only check against the published K400 epochs.")] = False,
    strategies: Annotated[
        bool, typer.Option(help="Only hours of UCF101, K400, SSv2 and OSCC on 8 GPUs by strategy, as Markdown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict pre-training on many GPUs: step, efficiency and what limits it (docs/scaling.md)."""
    from pipeline.planning import scaling as model

    if strategies:
        from pipeline.planning.by_strategy import by_strategy, markdown
        from pipeline.system.terminal import echo

        costs = by_strategy(gpu, store=store or "jpeg")
        if as_json:
            emit(costs, True)
        else:
            echo(markdown(costs), nl=False)
        return
    if published:
        emit(model.published(), as_json, "Published K400 epochs by the model")
        return
    numbers = whole_numbers("gpus", gpus, "8,16,32")
    result = model.scaling(recipe, gpu, numbers, mfu, store, videos or (), calibration)
    emit_with_lines(result, as_json, "Scaling", result["assumptions"], "  assumed: ")


@app.command()
def lr(
    stage: Annotated[str, typer.Argument(help="pretrain or finetune.")] = "pretrain",
    benchmark: Annotated[str | None, typer.Argument(help="The benchmark of a fine-tuning.")] = None,
    steps: Annotated[int, typer.Option(help="20 to 200.")] = 100,
    low: Annotated[float, typer.Option(help="The first base learning rate.")] = 1e-5,
    high: Annotated[float, typer.Option(help="The last one.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for the picture and its numbers.")] = Path("outputs/lr"),
    as_json: Json = False,
) -> None:
    """Find a learning rate: the loss of at most 200 steps over a growing rate; the run's own state stays as it is."""
    from pipeline.finder.command import find

    search = find(stage, benchmark, steps, low, high, out)
    shown = {name: value for name, value in search.items() if name != "points"}
    emit(search if as_json else shown, as_json, "Learning rate")


@app.command()
def flops(as_json: Json = False) -> None:
    """Multiply-adds and tokens of every size, stage and strategy."""
    from models.cost import flops_table

    emit(flops_table(), as_json, "Multiply-adds of one 16 x 224 x 224 clip")
