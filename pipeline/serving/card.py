"""The card of an exported model: data, splits, metrics with intervals, cost, licence, lineage.

What is unknown is said to be so. Its head is the one that Hugging Face reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.system.text import counted, printable
from pipeline.tracking import names

if TYPE_CHECKING:
    from models.info import ModelInfo
    from pipeline.experiments.lineage import RunFacts
    from pipeline.serving.origins import Origins

#: Names of classes in the card; all stand in model.json.
SHOWN = 20
UNKNOWN = "unknown"
#: A metric, its words, and the ends of its interval.
SCORES = (
    (names.EVAL_TOP1, "top-1", (names.EVAL_TOP1_LOW, names.EVAL_TOP1_HIGH)),
    (names.EVAL_MAP, "mAP", (names.EVAL_MAP_LOW, names.EVAL_MAP_HIGH)),
    (names.EVAL_TOP5, "top-5", None),
    (names.EVAL_CLASS_MEAN, "mean over classes", None),
    (names.EVAL_CALIBRATION_ERROR, "calibration error", None),
)
COSTS = (
    (names.WALL_SECONDS, "wall time", "s"),
    (names.ENERGY_WH, "energy", "Wh"),
    (names.PEAK_MEMORY_GIB, "peak memory", "GiB"),
    (names.GMACS_PER_CLIP, "multiply-adds a clip", "x 10^9"),
)


#: A line of each card, by which one is known.
KIND = "pipeline_tag: video-classification"


def card(info: ModelInfo, origins: Origins, exported: Mapping[str, Any], title: str, licence: str) -> str:
    """The card as Markdown.

    Args:
        exported: what `pipeline.inference.export.command` returns.
        licence: an identifier of SPDX or Hugging Face's list; "unknown" where nobody said one.
    """
    lines = [
        *_head(info, licence, "huggingface" in exported["parity"]),
        *_model(info, origins, title),
        *_files(exported),
        *_data(info, origins),
        *_metrics(origins),
        *_cost(info, origins),
        *_licence(licence),
        *_lineage(origins),
    ]
    return "\n".join(map(printable, lines)) + "\n"


def _head(info: ModelInfo, licence: str, loads: bool) -> Iterator[str]:
    data = [info.dataset] if isinstance(info.dataset, str) else list(info.dataset or ())
    yield "---"
    yield f"license: {json.dumps(licence)}"
    yield KIND
    if loads:
        yield "library_name: transformers"
    yield f"datasets: {json.dumps(data)}"
    yield 'tags: ["video", "everest", "masked-autoencoder"]'
    yield "---"
    yield ""


def _model(info: ModelInfo, origins: Origins, title: str) -> Iterator[str]:
    from pipeline.data.frame_step import trained_step

    kwargs, step = info.kwargs, trained_step(info)
    yield f"# {title}"
    yield ""
    kept = f" and the keep ratio {kwargs['keep_ratio']:g}" if kwargs.get("keep_ratio") else ""
    yield f"A video classifier, {info.architecture}, with the token strategy {kwargs.get('strategy', 'none')}{kept}."
    yield ""
    yield from _table(
        ("what", "value"),
        [
            ("clip", f"{info.frames} frames, {step or UNKNOWN} from one to the next"),
            ("pixels", f"{info.pixels.resolution} x {info.pixels.resolution}, {info.pixels.resize}"),
            ("tested with", f"{counted(info.views.segments, 'clip')} over time x {counted(info.views.crops, 'crop')}"),
            ("probabilities", _temperature(info)),
            ("classes", _classes(info)),
            ("SHA-256 of the weights", f"`{origins.sha256}`"),
        ],
    )


def _temperature(info: ModelInfo) -> str:
    mean = f"mean p of the views' {'sigmoids, one a class' if info.multi_label else 'softmax'}"
    if info.temperature is None:
        return f"{mean}; no temperature was fitted"
    return f"{mean}, then p^(1/T) normalised, T = {info.temperature:.4g} fitted on validation videos"


def _classes(info: ModelInfo) -> str:
    if info.classes is None:
        return f"{info.num_classes}, without names"
    more = f" and {len(info.classes) - SHOWN} more (model.json)" if len(info.classes) > SHOWN else ""
    return f"{len(info.classes)}: {', '.join(info.classes[:SHOWN])}{more}"


def _files(exported: Mapping[str, Any]) -> Iterator[str]:
    yield "## Files, checked against the original"
    yield ""
    speed = {(row["format"], row["batch"]): row["milliseconds"] for row in exported["latency"]}
    rows = [
        (name, f"{difference:.1e}", *(f"{speed[name, batch]:.3g} ms" for batch in (1, 8)))
        for name, difference in exported["parity"].items()
    ]
    rows.append(("original", "0", *(f"{speed['torch', batch]:.3g} ms" for batch in (1, 8))))
    yield from _table(("format", "largest difference of logits", "1 clip", "8 clips"), rows)
    if "huggingface" in exported["parity"]:
        yield (
            "Hugging Face's VideoMAE computes all tokens: it is compared with the original without its choice of "
            "tokens. The metrics below are those of the original with it."
        )
        yield ""


def _data(info: ModelInfo, origins: Origins) -> Iterator[str]:
    yield "## Data and splits"
    yield ""
    data = info.dataset if isinstance(info.dataset, str) else ", ".join(info.dataset or ()) or UNKNOWN
    yield f"Trained on: {data}."
    tested = origins.tested
    yield (
        f"Tested on: split {tested['params'].get('evaluate.split', UNKNOWN)} of it."
        if tested
        else "Tested on: unknown."
    )
    yield ""
    runs = [*([tested] if tested else []), *origins.trained]
    rows = {(name, digest) for run in runs for name, digest in run["data"].items()}
    yield from _table(("data", "content hash"), [(name, f"`{digest}`") for name, digest in sorted(rows)])


def _metrics(origins: Origins) -> Iterator[str]:
    yield "## Metrics"
    yield ""
    tested = origins.tested
    if tested is None:
        yield f"Unknown: {(origins.unknown or 'no run tested these weights').rstrip('.')}."
        yield ""
        return
    values = tested["metrics"]
    rows = []
    for name, words, ends in SCORES:
        if name in values:
            known = ends is not None and all(end in values for end in ends)
            interval = f"{values[ends[0]]:.4f} to {values[ends[1]]:.4f}" if ends is not None and known else ""
            rows.append((words, f"{values[name]:.4f}", interval))
    yield from _table(("metric", "value", "95 % interval"), rows)
    if names.EVAL_VIDEOS_OK in values:
        total = values.get(names.EVAL_VIDEOS_TOTAL, 0)
        yield f"Over {values[names.EVAL_VIDEOS_OK]:g} videos of {total:g}, each counted once."
        yield ""


def _cost(info: ModelInfo, origins: Origins) -> Iterator[str]:
    from pipeline.evaluation.benchmark import cost

    of_clip = cost(info)
    yield "## Cost"
    yield ""
    yield (
        f"One clip takes {of_clip[names.GMACS_PER_CLIP]:.3f} x 10^9 multiply-adds over "
        f"{of_clip[names.TOKENS_PER_CLIP]:.0f} tokens."
    )
    yield ""
    rows = []
    for run in origins.trained:
        spent = [f"{run['metrics'][n]:.4g} {unit} {word}" for n, word, unit in COSTS if n in run["metrics"]]
        rows.append((run["name"], "; ".join(spent) or UNKNOWN))
    yield from _table(("training", "cost"), rows)


def _licence(licence: str) -> Iterator[str]:
    yield "## Licence"
    yield ""
    if licence == UNKNOWN:
        yield "Unknown: nobody stated one (`everest export --licence`). The data's licences may restrict the use."
    else:
        yield f"{licence}. The data's licences may restrict the use further."
    yield ""


def _lineage(origins: Origins) -> Iterator[str]:
    yield "## Lineage"
    yield ""
    if origins.unknown:
        yield f"Unknown: {origins.unknown}"
        return
    rows = [("registered as", ", ".join(origins.versions) or UNKNOWN)]
    rows += [("tested by", _run(origins.tested))] if origins.tested else []
    rows += [("weights by" if not place else "began with", _run(run)) for place, run in enumerate(origins.trained)]
    yield from _table(("what", "run"), rows)


def _run(run: RunFacts) -> str:
    commit = run["code"].get("git.commit", UNKNOWN)
    return f"{run['name']}, run `{run['id']}`, commit `{commit[:12]}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""
