"""Looking at results: pictures, predictions, origins, pages; and handing models on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import Json, commands, emit

if TYPE_CHECKING:
    from pipeline.timeline.timeline import Timelines

app = commands()
Model = Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, a run's id, or a folder.")]


@app.command()
def show(
    video: Path,
    model: Annotated[Path | None, typer.Option(help="A model's folder; raw-pixel scores if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the picture and the animation.")] = Path("outputs/show"),
    frame_step: Annotated[
        int | None, typer.Option(min=1, help="Frames between two of the clip; as the model was trained, or 4.")
    ] = None,
    start: Annotated[float | None, typer.Option(help="Seconds; the middle of the video if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Draw which tokens of a video are kept, shown and reconstructed."""
    from pipeline.pictures.look import show as draw
    from pipeline.system.files import make_folder

    make_folder(out)
    emit(
        [{"file": str(path)} for path in draw(video, model, out, frame_step=frame_step, start=start)],
        as_json,
        "Written",
    )


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show what runs, waits or was stopped, on this machine and behind PREFECT_API_URL."""
    from pipeline.status import command

    (command.watch if watch else command.once)(as_json)


@app.command()
def predict(
    videos: Annotated[list[str], typer.Argument(help="Files, or folders that are searched.")],
    model: Model,
    out: Annotated[str | None, typer.Option(help="All probabilities: a .csv, .json or .parquet file.")] = None,
    pictures: Annotated[str | None, typer.Option(help="A folder for pictures of the kept tokens.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Clips that go through the model together: 32, of a timeline 4.")
    ] = None,
    segments: Annotated[int | None, typer.Option(min=1, help="Clips over time; as tested if left out.")] = None,
    crops: Annotated[int | None, typer.Option(min=1, max=3, help="Crops of each clip; as tested if left out.")] = None,
    frame_step: Annotated[int | None, typer.Option(min=1, help="Frames between two of a clip; as trained.")] = None,
    timeline: Annotated[
        bool,
        typer.Option("--timeline", help="Probabilities over time, a plot and segments; --out is a folder."),
    ] = False,
    stride: Annotated[
        float | None, typer.Option(help="Timeline: seconds from one window to the next; half a window if left out.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Timeline: probability from which on a class is a segment.")] = 0.5,
    shortest: Annotated[float, typer.Option(help="Timeline: seconds below which a segment is left out.")] = 0.0,
    temperature: Annotated[
        bool, typer.Option(help="Apply the temperature that was fitted on validation videos, if one was.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Classify videos with a registered or local model; with --timeline, say what long ones show when."""
    from pipeline import api

    if timeline:
        timelines = api.timeline(
            _timeline_videos(videos, pictures, segments),
            model,
            out=out or "outputs/timeline",
            stride=stride,
            threshold=threshold,
            shortest=shortest,
            crops=crops,
            frame_step=frame_step,
            batch=4 if batch is None else batch,
            temperature=temperature,
        )
        _tell(timelines, as_json)
        _tell_temperature(timelines.temperature, temperature, as_json)
        if not timelines.timelines:
            raise typer.Exit(1)
        return
    predictions = api.predict(
        videos,
        model,
        out=out,
        pictures=pictures,
        batch=32 if batch is None else batch,
        segments=segments,
        crops=crops,
        frame_step=frame_step,
        temperature=temperature,
    )
    emit(predictions.as_dict(), as_json, "Predictions")
    _tell_temperature(predictions.temperature, temperature, as_json)
    if not predictions.predictions:
        raise typer.Exit(1)


def _timeline_videos(videos: list[str], pictures: str | None, segments: int | None) -> list[str]:
    """The videos, unless options of an ordinary prediction came with them."""
    from pipeline.errors import InputError

    for option, value in (("--pictures", pictures), ("--segments", segments)):
        if value is not None:
            raise InputError(f"{option} does not go with --timeline, which takes every window. Cure: leave it out.")
    return videos


def _tell_temperature(value: float | None, wanted: bool, as_json: bool) -> None:
    """Say what the probabilities were brought to; JSON has the number."""
    from pipeline.system.terminal import echo

    if as_json or not wanted:
        return
    if value is None:
        echo("Probabilities: as tested; no temperature was fitted for this model.")
    else:
        echo(f"Probabilities: at temperature {value:.3g}, fitted on validation videos (--no-temperature: as tested).")


def _tell(timelines: Timelines, as_json: bool) -> None:
    """Print the segments of each video, and the files."""
    if as_json:
        return emit(timelines.as_dict(), as_json)
    for one in timelines.timelines:
        rows = [
            {"start": f"{s.start:.2f} s", "end": f"{s.end:.2f} s", "class": s.class_name, "score": f"{s.score:.3f}"}
            for s in one.segments
        ]
        title = f"{Path(one.video).name}: {one.windows} windows over {one.length:g} s"
        emit(rows or [{"segments": "none: no class reaches the threshold (--threshold)"}], as_json, title)
        files = [{"file": one.table}, {"file": one.picture}]
        emit([*files, {"file": f"it stops early: {one.stopped}"}] if one.stopped else files, as_json, "Written")
    if timelines.failed:
        emit([{"video": one.video, "reason": one.reason} for one in timelines.failed], as_json, "Failed")
    return None


@app.command()
def export(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder to write to.")] = "outputs/export",
    to: Annotated[
        str, typer.Option("--to", "--formats", help="pt2, onnx, huggingface, or several with commas.")
    ] = "pt2,onnx",
    licence: Annotated[str, typer.Option(help="For the model card: Apache-2.0, cc-by-nc-4.0 ...")] = "unknown",
    as_json: Json = False,
) -> None:
    """Write a classifier as torch.export, ONNX or for Hugging Face, checked against the original, with a card."""
    from pipeline.serving.handover import export as hand_over

    emit(hand_over(model, out, to.split(","), licence), as_json, "Export")


@app.command()
def lineage(
    target: Annotated[str, typer.Argument(help="A file, a run's id, or models:/...")], as_json: Json = False
) -> None:
    """Say where a file, a model or a score comes from: data, code, parameters, parents."""
    from pipeline.experiments.lineage import command
    from pipeline.experiments.lineage_text import describe
    from pipeline.system.terminal import echo

    chain = command(target)
    if as_json:
        return emit(chain, as_json)
    return echo(describe(chain))


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="A stage's run id in MLflow.")],
    keep: Annotated[bool, typer.Option(help="Leave the worktree, to look at.")] = False,
    as_json: Json = False,
) -> None:
    """Run a tracked stage again from its commit and data; compare every metric."""
    from pipeline.system.progress import watched

    with watched("reproduce"):
        from pipeline.experiments.reproduce import command

        result = command(run, keep)
    emit(result, as_json, "Reproduced")
    if not result["equal"]:
        raise typer.Exit(1)


@app.command("convert-checkpoint")
def convert_checkpoint(
    source: Path,
    destination: Path,
    to: Annotated[str, typer.Option(help="ours, official or huggingface.")] = "ours",
    strategy: Annotated[
        str | None,
        typer.Option(help="Tokens to use it with: everest or tube for pre-training, everest or none for a classifier."),
    ] = None,
    img_size: Annotated[
        int | None, typer.Option(min=1, help="Of official files that do not say it; else 224 pixels.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(min=1, help="Of official files that do not say it; else 16.")
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option(
            help="Take a folder of this project as it is: a former version recorded no hashes in it, or model.json "
            "was changed on purpose; the new folder records them."
        ),
    ] = False,
    classes: Annotated[Path | None, typer.Option(help="Names of the classes: one a line, or a classes.json.")] = None,
    frame_step: Annotated[int | None, typer.Option(min=1, help="Frames between two of a clip; for predict.")] = None,
    short_side: Annotated[int | None, typer.Option(min=16, help="Shrink larger frames to it first.")] = None,
    as_json: Json = False,
) -> None:
    """Convert weights: official EVEREST or VideoMAE, ours, Hugging Face."""
    from pipeline.inference.convert import convert

    converted = convert(
        source,
        destination,
        to,  # type: ignore[arg-type]
        img_size=img_size,
        num_frames=num_frames,
        strategy=strategy,
        verify=not unverified,
        classes=classes,
        frame_step=frame_step,
        short_side=short_side,
    )
    emit(converted, as_json, "Converted")


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's page.")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="EVEREST_DATABASE",
            help="PostgreSQL for both, postgresql://user:password@host; SQLite if left out. In the variable, no list "
            "of processes shows the password.",
        ),
    ] = None,
) -> None:
    """Serve MLflow's and Prefect's pages on this machine until Ctrl-C."""
    from pipeline.ui import serve

    serve(mlflow_port, prefect_port, database)
