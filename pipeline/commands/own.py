"""Your own videos: what a folder holds, and what a model makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import SIZES, Json, commands, emit

app = commands()


@app.command()
def init(
    place: Annotated[Path, typer.Argument(help="A folder with a folder for each class, or a CSV or Parquet table.")],
    hours: Annotated[float, typer.Option(help="That the whole chain may take.")] = 4.0,
    device: Annotated[
        str, typer.Option(help="h100, h200, a100-80, a100-40, a6000, 4090, cpu, or auto for what is here.")
    ] = "auto",
    gpus: Annotated[int | None, typer.Option(help="How many; all that are here if left out.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the set; the folder's if left out.")] = None,
    force: Annotated[bool, typer.Option(help="Overwrite a params.yaml that holds values of yours.")] = False,
    as_json: Json = False,
) -> None:
    """Look at your own videos, say what is wrong with them, and write a params.yaml that fits them."""
    from pipeline import api
    from pipeline.system.terminal import echo

    made = api.init(place, hours=hours, device=device, gpus=gpus, name=name, force=force)
    if as_json:
        return emit(made.as_dict(), as_json)
    for sentence in made.warnings:
        echo(f"! {sentence}")
    for line in made.lines():
        echo(line)
    return None


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(help="Searched for videos, with its subfolders.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("outputs/audit/audit.html"),
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu",
            "--device",
            help="Predict hours and memory for it: h100, h200, a100-80, a100-40, a6000, 4090, or cpu.",
        ),
    ] = "h100",
    gpus: Annotated[int, typer.Option(help="How many.")] = 1,
    size: Annotated[str, typer.Option(help=f"Model to predict for: {SIZES}.")] = "base",
    as_json: Json = False,
) -> None:
    """Say how redundant a folder's videos are, what EVEREST would drop of them, and what a training takes."""
    from pipeline import api
    from pipeline.system.terminal import echo

    result = api.audit(folder, out=out, gpu=gpu, gpus=gpus, size=size)
    if as_json:
        return emit(result.as_dict(), as_json)
    for sentence in result.sentences:
        echo(sentence)
    return echo(f"page: {result.page}")


@app.command()
def embed(
    videos: Annotated[list[str], typer.Argument(help="Files, folders that are searched, or a benchmark's name.")],
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, a run's id, or a folder: a pre-trained model or a classifier.")
    ],
    out: Annotated[
        str | None,
        typer.Option(help="A .parquet or .npz file; by default in outputs/embed, named by videos and model."),
    ] = None,
    pool: Annotated[str, typer.Option(help="A row holds: clip (pooled), slots (of time), or tokens.")] = "clip",
    clips: Annotated[int | None, typer.Option(min=1, help="Clips over time; as tested if left out.")] = None,
    frame_step: Annotated[int | None, typer.Option(min=1, help="Frames between two of a clip; as trained.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of tokens that the encoder sees; its own.")] = None,
    batch: Annotated[int, typer.Option(help="Clips that go through the model together.")] = 32,
    near: Annotated[str | None, typer.Option(help="Draw the nearest neighbours of this video.")] = None,
    top: Annotated[int, typer.Option(help="How many neighbours.")] = 8,
    picture: Annotated[str, typer.Option(help="The picture of the neighbours.")] = "outputs/embed/neighbours.png",
    as_json: Json = False,
) -> None:
    """Write features of videos, from a pre-trained model or a classifier; draw what is near a video."""
    from dataclasses import asdict

    from pipeline import api

    embedding = api.embed(
        videos,
        model,
        out=out,
        pool=pool,  # type: ignore[arg-type]
        clips=clips,
        frame_step=frame_step,
        keep=keep,
        batch=batch,
        near=near,
        top=top,
        picture=picture,
    )
    record = asdict(embedding)
    if not as_json:
        del record["about"]
        near_rows = record.pop("neighbours")
        emit(record, as_json, "Features")
        if near_rows is not None:
            rows = near_rows["nearest"]
            if not any(row["label"] for row in rows):  # files have none
                rows = [{"video": row["video"], "similarity": row["similarity"]} for row in rows]
            emit(rows, as_json, f"Nearest to {near_rows['video']}")
            emit([{"file": near_rows["picture"]}], as_json, "Written")
    else:
        emit(record, as_json)
    if not embedding.videos_ok:
        raise typer.Exit(1)
