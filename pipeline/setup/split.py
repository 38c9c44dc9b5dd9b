"""Train, validation and test by groups: the same for the same videos, whatever their names and order.

Groups are handed out one by one, the largest first, each to the split that its classes lack most (Sechidis, Tsoumakas
and Vlahavas 2011, "On the stratification of multi-label data"). Equal sizes are ordered by the hash of their bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.setup.groups import Groups
from pipeline.setup.look import OwnVideo

#: Shares of each class; in this order where two splits lack as much.
SHARES = {"train": 0.7, "test": 0.2, "val": 0.1}


@dataclass(frozen=True)
class Split:
    """Split of each video by its path, and what had to be said about it."""

    of: dict[str, str]
    remarks: list[str]

    def counts(self, videos: Sequence[OwnVideo]) -> dict[str, Counter[str]]:
        """Videos of each class with a label, by split; one with several classes counts in each of them."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in ("train", "val", "test")}
        for video in videos:
            if self.of[video.path] in counts:
                counts[self.of[video.path]].update(video.classes)
        return counts


def split(videos: Sequence[OwnVideo], groups: Groups) -> Split:
    """Share out videos by their groups; what a table or split folders give stays as it is.

    Raises:
        InputError: a given split leaves a class without training videos, or nothing is left to test on.
    """
    members: dict[int, list[OwnVideo]] = defaultdict(list)
    for video in videos:
        if video.split != "unused":  # a clip that is marked so says nothing of where the rest of its group belongs
            members[groups.of[video.path]].append(video)
    chosen: dict[int, str] = {}
    remarks = []
    straddling = 0
    for number, group in members.items():
        given = Counter(video.split for video in group if video.split)
        straddling += len(given) > 1
        if given:
            chosen[number] = min(given, key=lambda name: (-given[name], name))
        elif not any(video.label for video in group):
            chosen[number] = "train"  # pre-training reads it; nothing can be tested on it
    if straddling:
        remarks.append(
            f"Groups on both sides of the split that is given: {straddling}. Test scores will be too good; "
            "the split is kept as it is."
        )
    fixed = set(chosen)
    _hand_out(members, chosen)
    remarks += _mend(members, chosen, fixed)
    of = {video.path: video.split or chosen[groups.of[video.path]] for video in videos}
    result = Split(of, remarks)
    _check(result, videos)
    return result


def _hand_out(members: Mapping[int, list[OwnVideo]], chosen: dict[int, str]) -> None:
    total = Counter(label for group in members.values() for video in group for label in video.classes)
    lacking = {name: {label: share * count for label, count in total.items()} for name, share in SHARES.items()}

    def take(number: int, name: str) -> None:
        for video in members[number]:
            for label in video.classes:
                lacking[name][label] -= 1

    for number, name in chosen.items():
        take(number, name)
    for number in sorted(members.keys() - chosen.keys(), key=lambda number: _order(members[number])):
        counts = Counter(label for video in members[number] for label in video.classes)
        # What a split lacks of a class, in units of what it should have in all: of equal lacks the larger share wins.
        lack = {
            name: sum(count * lacking[name][label] / total[label] for label, count in counts.items()) for name in SHARES
        }
        chosen[number] = max(SHARES, key=lambda name: (round(lack[name], 9), SHARES[name]))
        take(number, chosen[number])


def _order(group: Sequence[OwnVideo]) -> tuple[int, str]:
    return -len(group), min(video.sha256 for video in group)


def _mend(members: Mapping[int, list[OwnVideo]], chosen: dict[int, str], fixed: set[int]) -> list[str]:
    """Give a class videos to train on, then to test on, then to validate on, as far as its groups allow."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for number, group in members.items():
        for label in {label for video in group for label in video.classes}:
            by_class[label].append(number)
    for name in SHARES:
        for label in sorted(by_class):
            numbers = by_class[label]
            if any(chosen[number] == name for number in numbers):
                continue
            spare = [n for n in numbers if n not in fixed and _can_leave(n, name, members, chosen, by_class)]
            if spare:
                chosen[max(spare, key=lambda number: _order(members[number]))] = name
    few = {name: sorted(label for label, numbers in by_class.items() if all(chosen[n] != name for n in numbers))
           for name in ("test", "val")}  # fmt: skip
    return [
        f"Classes without a {word} video, for want of groups: {len(labels)} of {len(by_class)} ({_shown(labels)})."
        for labels, word in ((few["test"], "test"), (few["val"], "validation"))
        if labels
    ]


def _can_leave(
    number: int, name: str, members: Mapping[int, list[OwnVideo]], chosen: Mapping[int, str],
    by_class: Mapping[str, list[int]],
) -> bool:  # fmt: skip
    """Whether each class of a group keeps another one where it is now; training comes before all."""
    now = chosen[number]
    if name == "train" and now != "train":
        return True
    labels = {label for video in members[number] for label in video.classes}
    return all(sum(chosen[other] == now for other in by_class[label]) > 1 for label in labels)


def _check(result: Split, videos: Sequence[OwnVideo]) -> None:
    counts = result.counts(videos)
    labels = {label for video in videos for label in video.classes}
    if absent := sorted(labels - counts["train"].keys()):
        raise InputError(
            f"{len(absent)} of {len(labels)} classes have no training video in the split that is given: "
            f"{_shown(absent)}. Cure: move some of their videos to train, or leave the classes out."
        )
    if not counts["test"] and not counts["val"]:
        if all(video.split for video in videos if video.classes):
            raise InputError(
                "the split that is given has neither test nor val videos: nothing is left to test on. Cure: mark some "
                "of them test, or take the column split (or the folder above the classes) away: this command makes one."
            )
        raise InputError(
            f"{len(videos)} videos, and no class has a second group of them: nothing is left to test on. "
            "Cure: more videos of each class, or a table with the columns path,label,group that says what belongs "
            "together."
        )


def _shown(labels: Sequence[str]) -> str:
    from pipeline.system.text import printable

    return ", ".join(printable(label) for label in labels[:5]) + (", ..." if len(labels) > 5 else "")
