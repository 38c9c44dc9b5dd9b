"""DVC's metrics are a headline: few columns, the same names everywhere; nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.tracking.headline import HEADLINE, headline, ran, words


def test_the_headline_is_accuracy_loss_multiply_adds_memory_and_time_and_no_more() -> None:
    groups = {name.partition("/")[0] for name in HEADLINE}
    assert groups == {"eval", "val", "train", "data", "efficiency"}
    assert len(HEADLINE) <= 12
    many = {f"efficiency/{name}": 1.0 for name in ("mfu", "forward_fraction", "gmacs_per_clip", "wall_seconds")}
    assert headline(many) == {"efficiency/gmacs_per_clip": 1.0, "efficiency/wall_seconds": 1.0}


def test_words_leave_out_what_a_file_does_not_have(tmp_path: Path) -> None:
    assert words("pretrain", None, tmp_path) == ""
    path = tmp_path / "metrics/evaluate/a.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"eval/top1": 0.5, "data/videos_ok": 3}))
    assert words("evaluate", "a", tmp_path) == "top-1 50.0 %"
    assert ran("evaluate", "a", tmp_path, 61) == "ran in 1:01, top-1 50.0 %"
