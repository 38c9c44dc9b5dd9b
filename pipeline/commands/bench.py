"""Timings with a baseline in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import SIZES, Json, emit

app = typer.Typer(help="Time parts against a baseline in the same run.", no_args_is_help=True, rich_markup_mode=None)
Clips = Annotated[Path | None, typer.Option(help="A folder of videos; generated ones if left out.")]


@app.command()
def step(
    size: Annotated[str, typer.Option(help=f"{SIZES}.")] = "base",
    batch: Annotated[int, typer.Option(help="Clips in a step.")] = 4,
    steps: Annotated[int, typer.Option(help="Turns that each contestant gets.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each contestant; all cores if left out.")] = None,
    compiled: Annotated[bool, typer.Option(help="Compile ours.")] = False,
    same_allocator: Annotated[
        bool, typer.Option(help="Let all contestants keep freed memory on a CPU, as our trainings do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A pre-training step: ours, a plain one, and Hugging Face's VideoMAE."""
    from pipeline.bench.step import command

    emit(command(size, batch, steps, device, threads, compiled, same_allocator), as_json, "Training step")


@app.command()
def gpu(
    out: Annotated[Path, typer.Option(help="Folder for results.json, gpu.md and calibration.json.")],
    minutes: Annotated[float, typer.Option(help="Time that the parts share.")] = 8.0,
    device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal with tiny sizes.")] = "cuda",
    only: Annotated[
        list[str] | None, typer.Option(help="Parts: right, fast, planner, fed, learns; all if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a GPU's numbers and measure what it reaches, part by part; exit code 1 where a check failed."""
    from pipeline.bench.gpu.run import command

    result = command(minutes, device, only, out)
    emit(result if as_json else {key: value for key, value in result.items() if key != "rows"}, as_json, "GPU")
    if result["failed"]:
        raise typer.Exit(1)


@app.command()
def loader(clips: Clips = None, rounds: int = 9, samples: int = 20_000, as_json: Json = False) -> None:
    """Loading clips: the usual way, from videos, from cached JPEG, from raw cache."""
    from pipeline.bench.loader import command

    emit(command(clips, rounds, samples), as_json, "Loader")


@app.command()
def ingest(clips: Clips = None, videos: int = 96, rounds: int = 5, as_json: Json = False) -> None:
    """Verifying videos with one and two processes, unchanged files, a long manifest."""
    from pipeline.bench.ingest import command

    emit(command(clips, videos, rounds), as_json, "Ingest")


@app.command()
def serving(
    model: Annotated[str | None, typer.Option(help="As for `everest predict`; a fresh tiny one if left out.")] = None,
    clips: Clips = None,
    requests: Annotated[int, typer.Option(help="Of each kind.")] = 40,
    resolution: Annotated[int, typer.Option(help="Pixels of the fresh model.")] = 224,
    segments: Annotated[int, typer.Option(help="Clips over time that the fresh model is asked about.")] = 1,
    crops: Annotated[int, typer.Option(help="Crops of each clip.")] = 1,
    as_json: Json = False,
) -> None:
    """How long `mlflow models serve` takes to answer about 10 s of 340x256 video: median and 95th percentile."""
    from pipeline.bench.serving.run import command

    emit(command(model, clips, requests, resolution, segments, crops), as_json, "Serving")


@app.command()
def preprocess(clips: Clips = None, rounds: int = 5, as_json: Json = False) -> None:
    """Preprocessing against decoding alone."""
    from pipeline.bench.preprocess import command

    emit(command(clips, rounds), as_json, "Preprocess")


@app.command()
def costs(
    rates: Annotated[Path, typer.Argument(help="What `everest bench preprocess --json` printed.")],
    markdown: Annotated[bool, typer.Option(help="Print a Markdown table.")] = False,
    as_json: Json = False,
) -> None:
    """Disk and hours that preprocessing each published data set takes, from rates measured here."""
    from pipeline.bench.costs import as_markdown, command
    from pipeline.system.terminal import echo

    table = command(rates)
    if markdown:
        return echo(as_markdown(table), nl=False)
    return emit(table, as_json, "What a data set costs")


@app.command()
def evidence(
    videos: Annotated[list[Path], typer.Argument(help="Video files, and folders of them.")],
    model: Annotated[Path, typer.Option(help="A model's folder, such as outputs/pretrain.")],
    step: Annotated[int, typer.Option(help="Frames between the frames of a clip.")] = 4,
    resolution: Annotated[int, typer.Option(help="Pixels.")] = 224,
    as_json: Json = False,
) -> None:
    """Do pixel distances rank tokens and slots as a trained embedding does? Spearman's correlations."""
    from pipeline.bench.evidence import command

    emit(command(videos, model, step, resolution), as_json, "Pixel distances against a trained embedding")


@app.command()
def overhead(
    steps: Annotated[int, typer.Option(help="Steps of each kind with each store.")] = 300,
    batch: Annotated[int, typer.Option(help="Clips in a step of the demo's model.")] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads of the training.")] = 1,
    as_json: Json = False,
) -> None:
    """What measuring and tracking cost a step, with the tracking store alive, dead and hanging."""
    from pipeline.bench.overhead import command

    emit(command(steps, batch, threads), as_json, "Overhead of measuring and tracking")


@app.command()
def allreduce(
    size: Annotated[str, typer.Option(help=f"{SIZES}.")] = "small",
    clips: Annotated[int, typer.Option(help="Clips of each rank.")] = 1,
    resolution: Annotated[int, typer.Option(help="Pixels.")] = 224,
    rounds: Annotated[int, typer.Option(help="Turns of each kind.")] = 5,
    as_json: Json = False,
) -> None:
    """Gloo's all-reduce by message size between two ranks here, and the model of docs/scaling.md checked on them."""
    from pipeline.bench.allreduce import command

    emit(command(size, clips, resolution, rounds), as_json, "All-reduce")
