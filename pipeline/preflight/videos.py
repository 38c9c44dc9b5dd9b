"""What the manifests, or the lists that they will be made from, say of splits, classes and batches."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.annotations.classes import count_fault
from pipeline.data.sources.folder import listing_of
from pipeline.errors import InputError, parted
from pipeline.params import Params, flatten
from pipeline.params.benchmarks import PUBLISHED
from pipeline.params.records import differences, noted
from pipeline.preflight.problem import Problem, Scope


@dataclass(frozen=True)
class Videos:
    """What is known of a benchmark's videos, and from where: labelled ones by split and class.

    Attributes:
        several: of videos with several classes, how many of each split have each class; else {}. `labelled` has them
            once then, by their first class.
    """

    origin: str
    labelled: dict[str, Counter[int]]
    listed: Counter[str] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()
    several: dict[str, Counter[int]] = field(default_factory=dict)

    def by_class(self) -> dict[str, Counter[int]]:
        """Videos of each class, by split."""
        return self.several or self.labelled

    def count(self, split: str, fraction: float = 1.0) -> int:
        """Labelled videos of a split, of each class a share of at least one."""
        counts = self.labelled.get(split, Counter()).values()
        return sum(max(1, round(fraction * count)) for count in counts)


def splits(scope: Scope) -> Iterator[Problem]:
    """A split that a stage will look for and not find, classes that are not those of params.yaml."""
    params = scope.params
    for key in dict.fromkeys([*scope.of("download"), *scope.of("finetune"), *scope.of("evaluate")]):
        try:
            videos = known(params, key, scope.chain)
        except InputError as error:
            what, cure = parted(error)
            yield Problem(f"benchmarks.{key}.data.source", f": {what}", cure or "mend it.")
            continue
        entry = params.benchmarks[key]
        if key in scope.of("finetune"):
            stage = params.finetune_of(key)
            where = f"benchmarks.{key}.finetune" if entry.finetune.validate_split else "finetune"
            yield from _lacks(params, key, videos, "train", f"benchmarks.{key}")
            yield from _lacks(params, key, videos, stage.validate_split, f"{where}.validate_split")
        if key in scope.of("evaluate"):
            where = f"benchmarks.{key}.evaluate" if entry.evaluate.split else "evaluate"
            yield from _lacks(params, key, videos, params.evaluate_of(key).split, f"{where}.split")
        if videos is not None and videos.classes:
            labels = {label for counts in videos.by_class().values() for label in counts}
            fault = count_fault(f"benchmarks.{key}.data.classes", entry.data.classes, list(videos.classes), labels)
            if fault:
                head, cure = parted(fault)
                yield Problem(
                    f"benchmarks.{key}.data.classes", head.removeprefix(f"benchmarks.{key}.data.classes"), cure
                )
            elif key in scope.of("finetune"):
                yield from _untrained(key, videos)
                yield from _unbalanced(params, key, videos)


def batches(scope: Scope) -> Iterator[Problem]:
    """Fewer training videos than one batch takes."""
    params = scope.params
    for key in scope.of("finetune"):
        videos, stage = _known_or_none(scope, key), params.finetune_of(key)
        there = videos.count("train", stage.label_fraction) if videos else 0
        if videos and 0 < there < stage.batch:
            share = f" x label_fraction = {stage.label_fraction:g}" if stage.label_fraction < 1 else ""
            where = f"benchmarks.{key}.finetune.batch" if params.benchmarks[key].finetune.batch else "finetune.batch"
            yield Problem(
                where, f"= {stage.batch}, and {videos.origin} has {there} labelled training videos{share}",
                f"a batch of at most {there}.",
            )  # fmt: skip
    corpus = {key: _known_or_none(scope, key) for key in scope.of("pretrain")}
    if corpus and all(corpus.values()):
        there = sum(videos.listed["train"] for videos in corpus.values() if videos)
        if there < params.pretrain.batch:
            yield Problem(
                "pretrain.batch", f"= {params.pretrain.batch}, and {', '.join(corpus)} have {there} training videos",
                f"a batch of at most {there}." if there else "name one with training videos in pretrain.corpus.",
            )  # fmt: skip


def _lacks(params: Params, key: str, videos: Videos | None, split: str, where: str) -> Iterator[Problem]:
    value = f"= {split!r}" if where.endswith("split") else ""
    if videos is None:
        published = PUBLISHED.get(params.benchmarks[key].data.dataset)
        there = published.labelled if published else ()
        if there and split not in there:
            yield Problem(
                where, f"{value}, and {params.benchmarks[key].data.dataset} publishes labels of {' and '.join(there)} "
                f"only ({key})", f"set it to {' or '.join(name for name in there if name != 'train')}.",
            )  # fmt: skip
    elif not videos.count(split):
        filled = [name for name in ("train", "val", "test") if videos.count(name)]
        shown = ", ".join(f"{videos.count(name)} in {name}" for name in filled) or "none at all"
        others = [name for name in filled if name != "train"]
        also = f", or set {where} to {' or '.join(others)}" if others and value else ""
        lead = f"{value}, and " if value else ": "
        yield Problem(
            where, f"{lead}{videos.origin} has no labelled video in the split {split!r} ({shown})",
            f"give some videos the split {split}{also}.",
        )  # fmt: skip


def _untrained(key: str, videos: Videos) -> Iterator[Problem]:
    trained = videos.by_class().get("train", Counter())
    absent = [name for label, name in enumerate(videos.classes) if not trained[label]]
    if absent and videos.count("train"):
        shown = ", ".join(repr(name) for name in absent[:5]) + (", ..." if len(absent) > 5 else "")
        yield Problem(
            f"benchmarks.{key}", f": {len(absent)} of {len(videos.classes)} classes have no training video: {shown}",
            "train without them, or move some of their videos to the split train.", "warning",
        )  # fmt: skip


def _unbalanced(params: Params, key: str, videos: Videos) -> Iterator[Problem]:
    override = params.benchmarks[key].finetune.balance
    if videos.several and params.finetune_of(key).balance == "sampling":
        yield Problem(
            f"benchmarks.{key}.finetune.balance" if override else "finetune.balance",
            f"= 'sampling', and videos of {videos.origin} have several classes each: none can be drawn for one alone",
            "balance: weights, or none.",
        )


def _known_or_none(scope: Scope, key: str) -> Videos | None:
    try:
        return known(scope.params, key, scope.chain)
    except InputError:  # `splits` says it
        return None


def known(params: Params, key: str, chain: bool) -> Videos | None:
    """What is known of a benchmark's videos before its download; None where only a download will tell.

    The manifest, where the download will not run again; else what it will be made from.

    Raises:
        InputError: the folder or the table cannot be used.
    """
    path = layout.manifest_dir(key) / "manifest.parquet"
    if path.exists() and (not chain or _is_current(params, key)):
        return _of_manifest(path, path.stat().st_mtime_ns)
    data = params.benchmarks[key].data
    if data.source.kind == "generated":
        shares = {"train": data.source.train, "val": data.source.val, "test": data.source.test}
        # Drawn in turns: every class has its share.
        each = {
            split: Counter({label: (count + data.classes - 1 - label) // data.classes for label in range(data.classes)})
            for split, count in shares.items()
        }
        return Videos(f"the source of {key}", {s: +counts for s, counts in each.items()}, Counter(shares))
    if data.source.kind == "folder" and data.dataset == "folder":
        listing = listing_of(data.source)
        labelled: dict[str, Counter[int]] = {}
        several: dict[str, Counter[int]] = {}
        for video in listing.videos:
            if video.label >= 0:
                labelled.setdefault(video.splits[0], Counter())[video.label] += 1
            if video.labels:
                several.setdefault(video.splits[0], Counter()).update(video.labels)
        listed = Counter(video.splits[0] for video in listing.videos)
        name = Path(data.source.annotations or data.source.path).name
        return Videos(name, labelled, listed, tuple(listing.classes), several)
    return None


@functools.lru_cache(maxsize=8)
def _of_manifest(path: Path, _written: int) -> Videos:
    table = manifest.load(path, columns=["split", "label"])
    grouped = table.group_by(["split", "label"]).aggregate([([], "count_all")]).to_pylist()
    labelled: dict[str, Counter[int]] = {}
    listed: Counter[str] = Counter()
    for row in grouped:
        listed[row["split"]] += row["count_all"]
        if row["label"] >= 0:
            labelled.setdefault(row["split"], Counter())[row["label"]] += row["count_all"]
    names = path.with_name(manifest.CLASSES)
    classes = manifest.read_classes(names) if names.exists() else ()
    several: dict[str, Counter[int]] = {}
    if manifest.has_several(path):
        for row in manifest.load(path, columns=["split", manifest.LABELS]).to_pylist():
            several.setdefault(row["split"], Counter()).update(row[manifest.LABELS])
    return Videos(str(path), labelled, listed, tuple(classes), several)


def _is_current(params: Params, key: str) -> bool:
    """Whether DVC has the download with these parameters on record, so that it will not run again."""
    values = noted(Path("dvc.lock"), f"download@{key}")
    if values is None:
        return False
    group = f"benchmarks.{key}.data."
    recorded = {name: value for name, value in values.items() if name.startswith(group)}
    return not any(differences(recorded, flatten(params.benchmarks[key].data, group)))
