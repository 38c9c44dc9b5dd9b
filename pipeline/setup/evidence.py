"""What trivial models say of short videos before anything is chosen: does motion tell the classes, and does its place?

They learn on some groups of the training videos and are asked of the others; no test or validation video is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.data.arrays import U8, Ints
from pipeline.data.frame_step import Step
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.reading import Accepted
from pipeline.data.ingest.verdicts import Rule
from pipeline.data.video import VideoError
from pipeline.evaluation.baselines import Clips, Pictures, Told, baselines, middle_clip, told
from pipeline.params import IngestParams
from pipeline.setup.groups import Groups
from pipeline.setup.look import OwnSet, OwnVideo
from pipeline.setup.machine import cores
from pipeline.setup.split import Split
from pipeline.setup.values import Value

#: At most so many training videos are read, so that it takes seconds: about 0.02 s each.
MOST = 1200
#: Share of them that is asked, and videos on each side below which nothing could be told.
ASKED, FEWEST = 1 / 3, 40
#: [pixels] to which frames are shrunk as they are read: far above what trivial models look at.
SHORT_SIDE = 128
_DRAWS = 500
#: Tokens of a clip up to which fine-tuning keeps all for a head that keeps places.
FEW_TOKENS = 200


def evidence(own: OwnSet, groups: Groups, split: Split, rules: IngestParams, say: Callable[[str], None]) -> Told | None:
    """What tells the classes of a set of short videos; None of others, of few, or of several classes each.

    Args:
        rules: of ingest, under which videos are read.
        say: told what is done.
    """
    if not own.whole or own.several:
        return None
    labelled = [video for video in own.videos if video.label and split.of[video.path] == "train"]
    asked = _asked(labelled, groups)
    learned = {video.label for video in labelled} - {""}
    sides = [[video for video in labelled if (video.path in asked) is side] for side in (False, True)]
    if min(map(len, sides)) < FEWEST or len(learned) < 2:
        return None
    say("asks trivial models")
    chosen = [_some(side) for side in sides]
    pictures = _pictures(own, [video for side in chosen for video in side], rules)
    readable = [[video for video in side if video.path in pictures] for side in chosen]
    if min(map(len, readable)) < FEWEST or len({video.label for video in readable[0]}) < 2:
        return None
    number = {name: place for place, name in enumerate(sorted(learned))}
    learn, ask = (
        Clips(np.stack([pictures[video.path] for video in side]), np.array([number[video.label] for video in side]))
        for side in readable
    )
    return told(baselines(learn, ask, None, draws=_DRAWS))


def chosen_by(found: Told | None, tokens: int) -> dict[str, Value]:
    """The values of params.yaml that the evidence speaks for, with what it is; none where it says nothing.

    Args:
        tokens: of a clip.
    """
    if found is None or not found.by_motion:
        return {}
    chosen = {
        "clip.input": Value(
            "difference",
            f"frame differences tell {100 * found.best.top1:.0f} % of held-out training videos to a trivial model, one "
            f"frame {100 * found.still.top1:.0f} % (paper: rgb)",
        ),
        "pretrain.monitor.health.learned_nothing": Value(
            0.01, "of differences little can be foretold: 0.9 of the mean-predictor's loss is much (of pictures: 0.03)"
        ),
    }
    if found.by_place:
        chosen["finetune.head"] = Value(
            "places",
            f"where things move tells: {100 * found.fixed.top1:.0f} % of held-out training videos by logistic "
            f"regression, moved to random places {100 * found.moved.top1:.0f} % (paper: mean)",
        )
        chosen["finetune.crop_scale"] = Value(
            [0.9, 1.0], "larger crops leave things at their places (paper: 0.08 to 1)"
        )
        if tokens <= FEW_TOKENS:
            reason = f"the head keeps places, which tokens left out would leave empty; there are {tokens} (paper: 0.6)"
            chosen["finetune.keep_ratio"] = Value(1.0, reason)
    return chosen


def _asked(videos: Sequence[OwnVideo], groups: Groups) -> set[str]:
    """Paths of the videos of some whole groups, about a share of all; the same for the same videos."""
    members: dict[int, list[OwnVideo]] = defaultdict(list)
    for video in videos:
        members[groups.of[video.path]].append(video)
    chosen: set[str] = set()
    for group in sorted(members.values(), key=lambda group: min(video.sha256 for video in group)):
        if len(chosen) + len(group) / 2 <= ASKED * len(videos):
            chosen.update(video.path for video in group)
    return chosen


def _some(videos: Sequence[OwnVideo]) -> list[OwnVideo]:
    """At most half of MOST, in an order that no name decides."""
    return sorted(videos, key=lambda video: video.sha256)[: MOST // 2]


def _pictures(own: OwnSet, videos: Sequence[OwnVideo], rules: IngestParams) -> dict[str, Pictures]:
    """Path -> the small pictures of a clip over the whole video, of those that can be read now."""
    measured = {own.folder / video.path: own.records[video.path].measurement for video in videos}
    # Another reader's frames may have other numbers.
    known = {file: Accepted.of(one) for file, one in measured.items() if one.reader == "pyav"}
    step = Step(share=1 / own.clip_frames)

    def clip(video: OwnVideo) -> Pictures | None:
        def read(numbers: Ints) -> U8:
            each, places = np.unique(numbers, return_inverse=True)
            return reader.frames(own.folder / video.path, lambda _: each.tolist(), SHORT_SIDE)[1][places]

        try:
            return middle_clip(read, video.frames, own.clip_frames, step.of(video.frames, video.fps))
        except VideoError:
            return None

    rule = Rule(own.min_frames, rules.max_repeated_run)
    with IsolatedFrames(Limits.of(rules), cores(), rule, known) as reader, ThreadPoolExecutor(cores()) as pool:
        clips = dict(zip([video.path for video in videos], pool.map(clip, videos), strict=True))
    return {path: found for path, found in clips.items() if found is not None}
