"""`everest init`: the params.yaml that it writes, and what it refuses to write over."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sample_videos
import several_classes
import yaml
from typer.testing import CliRunner

from pipeline import api
from pipeline.cli import app
from pipeline.data.annotations.own import from_table
from pipeline.data.video import write_video
from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.params.benchmarks import ByShare, ByTime
from pipeline.planning.counts import counts_of
from pipeline.planning.plan import plan
from pipeline.preflight import chain_scope, problems
from pipeline.recipes import show_recipe
from pipeline.setup.init import init

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 videos, cut from 6 sources that they share; a copy, an empty file, names that need care."""
    folder = tmp_path_factory.mktemp("own") / "My clips"
    for label in ("turn left", "-up"):
        for number in range(12):
            path = folder / label / f"-s{number // 2}_clip{number % 2}.mp4"
            seed = number + (100 if label == "-up" else 0)
            write_video(path, sample_videos.moving(40, 72, 96, seed=seed), fps=25)
    shutil.move(folder / "-up", folder / "up")
    shutil.copy(folder / "up" / "-s0_clip0.mp4", folder / "up" / "copy.mp4")
    (folder / "up" / "empty.mp4").touch()
    return folder


def table() -> list[dict[str, str]]:
    (path,) = [path for path in Path("annotations").iterdir() if "left-out" not in path.name]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_plan_and_preflight_take_the_file_without_an_edit(videos: Path) -> None:
    made = init(videos, device="a6000", hours=2.0)
    params = load_params(Path("params.yaml"))
    assert (params.recipe, params.pretrain.corpus, params.benchmarks["my_clips"].data.classes) == (
        "my_clips", ["my_clips"], 2,
    )  # fmt: skip
    counts = counts_of(params, "my_clips")
    assert (counts.train, counts.total) == (made.splits["train"], 24) == (16, 24)
    assert [problem for problem in problems(chain_scope(params)) if "cuda" not in str(problem)] == []
    row = plan(gpu="a6000")["stages"][0]
    assert (row["fits"], row["videos"], row["accumulate"]) == (True, 16, params.pretrain.accumulate)
    assert (made.groups, made.groups_by) == (6, {"names": 24})
    by_source: dict[str, set[str]] = {}
    for line in table():
        by_source.setdefault(line["path"].rpartition("_")[0], set()).add(line["split"])
    assert all(len(splits) == 1 for splits in by_source.values())
    # Left out with their reasons, and nothing lost.
    with Path("annotations/my_clips-left-out.csv").open(encoding="utf-8", newline="") as file:
        assert [(row["path"], row["reason"]) for row in csv.DictReader(file)] == [
            ("up/copy.mp4", "duplicate"), ("up/empty.mp4", "empty"),
        ]  # fmt: skip


def test_every_value_has_its_reason_behind_it_or_above_it(videos: Path) -> None:
    init(videos, device="a6000", hours=0.5)
    lines = Path("params.yaml").read_text().splitlines()
    groups = {"benchmarks", "data", "frame_selection", "my_clips", *yaml.safe_load(Path("params.yaml").read_text())}
    for number, line in enumerate(lines):
        key, _, value = line.strip().partition(":")
        if line.strip() and not line.strip().startswith("#") and key not in groups and value.strip() != "{}":
            assert " # " in line or lines[number - 1].strip().startswith("#"), line
    assert max(len(line) for line in lines if "source:" not in line) <= 126
    text = "\n".join(lines)
    words = " ".join(text.replace("#", " ").split())
    assert "each clip is the whole of its video: the median has 1.6 s, so that each seems one action, cut out" in words
    params = load_params(Path("params.yaml"))
    assert params.benchmarks["my_clips"].data.frame_step == ByShare(clip_share=1.0)
    assert (params.pretrain.frame_selection.window, params.evaluate.segments) == ("fixed", 1)
    assert params.ingest.min_frames == params.clip.frames // 2
    often = re.findall(r"checkpoint_every_steps: 1000 +# (.*?)(?: \d+ s)?$", text, re.M)
    assert often == ["about every", "more than it has: at its end"], "not every ten minutes"
    assert re.search(r"flip: 0\.0 +# a mirror turns classes such as 'turn left' into others", text)


@pytest.mark.slow
def test_on_this_machine_steps_are_measured_and_the_hours_are_kept(videos: Path) -> None:
    made = init(videos, device="cpu", hours=0.5)
    assert made.hours <= 0.5
    assert load_params(Path("params.yaml")).pretrain.precision == "fp32"
    assert plan(gpu="cpu")["devices"] == 1


def test_nothing_is_decoded_twice(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(videos, device="a6000")

    def refuse(*_: Any) -> None:
        raise RuntimeError("decoded again")

    monkeypatch.setattr("pipeline.data.ingest.pool._measure", refuse)
    first = Path("params.yaml").read_text()
    init(videos, device="a6000", force=True)
    assert Path("params.yaml").read_text() == first


def test_values_of_yours_are_not_overwritten_and_a_recipe_is(videos: Path) -> None:
    Path("params.yaml").write_text(show_recipe("demo"))
    init(videos, device="a6000")
    before = Path("params.yaml").read_text()
    with pytest.raises(InputError, match="holds values of yours.*--force"):
        init(videos, device="4090")
    assert Path("params.yaml").read_text() == before
    init(videos, device="4090", force=True)
    assert "RTX 4090" in Path("params.yaml").read_text()


def test_more_hours_give_more_epochs_or_a_larger_model(videos: Path) -> None:
    epochs = []
    for hours in (0.001, 0.003):
        made = init(videos, device="a6000", hours=hours, force=True)
        epochs.append(int(str(made.values["pretrain.epochs"].value)))
        assert made.hours <= hours
    assert epochs[0] < epochs[1]


def test_hours_that_are_not_enough_for_one_epoch_are_said_to_be_enough_for_none(videos: Path) -> None:
    made = init(videos, device="a6000", hours=1e-9)
    (said,) = [line for line in made.warnings if "h are little" in line]
    assert re.search(
        r"enough for 0 epochs of pre-training and 0 of fine-tuning .* \(one of pre-training takes \d", said
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hours": 0.0}, "hours = 0, expected above 0"),
        ({"device": "abacus"}, "gpu = 'abacus', expected one of h100"),
        ({"gpus": 0, "device": "cpu"}, "gpus = 0, expected at least 1"),
        ({"gpus": 64, "device": "h100"}, "16 training videos cannot be shared by 64 devices"),
        ({"name": "train"}, "is taken by the pipeline itself"),
        ({"name": "bögen"}, "--name 'bögen' is no recipe's name"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(videos: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        init(videos, **options)
    assert "\n" not in str(error.value)
    assert not Path("params.yaml").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"device": "abacus"}, "gpu = 'abacus'"),
        ({"gpus": 0, "device": "cpu"}, "gpus = 0"),
        ({"name": "bögen"}, "no recipe's name"),
        ({"device": "a6000"}, "class '-1' begins with a sign"),
    ],
)
def test_what_no_video_can_mend_is_said_before_any_is_decoded(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    for label in ("-1", "up"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "empty.mp4").touch()  # decoded, it would be refused
    with pytest.raises(InputError, match=told):
        init(tmp_path / "set", **options)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_said_first(videos: Path, elsewhere: Path) -> None:
    elsewhere.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written to"):
            init(videos)
    finally:
        elsewhere.chmod(0o700)


def test_the_command_says_what_is_wrong_first_and_prints_json(videos: Path) -> None:
    run = CliRunner().invoke(app, ["init", str(videos), "--device", "a6000"], catch_exceptions=False)
    lines = run.output.splitlines()
    assert lines[0] == "! Videos left out: 2 of 26 (1 duplicate, 1 empty)."
    name = load_params(Path("params.yaml")).recipe
    assert lines[-1] == f"next: dvc repro baseline@{name}, then everest plan, then everest run"
    planned = json.loads(CliRunner().invoke(app, ["plan", "--json"]).stdout)
    assert (planned["device"], planned["devices"]) == ("RTX A6000", 1)
    assert planned["videos"][0]["frames"] is not None, "init has measured them"
    run = CliRunner().invoke(app, ["init", str(videos), "--device", "a6000", "--force", "--json"])
    made = json.loads(run.output)
    assert made["values"]["pretrain.corpus"]["value"] == ["my_clips"]
    assert made["classes"] == {"turn left": 12, "up": 12}


def test_the_function_is_the_command(videos: Path) -> None:
    assert api.init(videos, device="a6000").benchmark == "my_clips"


def test_a_table_of_numbers_keeps_them_and_a_read_only_folder_is_left_alone(videos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "numbers"
    shutil.copytree(videos / "up", copy, ignore=shutil.ignore_patterns(".everest", "copy.mp4", "empty.mp4"))
    rows = [f"{path.name},{number % 2},{'ab'[number % 2]}" for number, path in enumerate(sorted(copy.glob("*.mp4")))]
    (copy / "list.csv").write_text("\n".join(["path,label,label_name", *rows]))
    before = sorted(copy.iterdir())
    copy.chmod(0o500)
    try:
        init(copy / "list.csv", device="a6000")
    finally:
        copy.chmod(0o700)
    if os.geteuid():
        assert sorted(copy.iterdir()) == before
    assert {(row["label"], row["label_name"]) for row in table()} == {("0", "a"), ("1", "b")}
    assert counts_of(load_params(Path("params.yaml")), "list").total == 12


@pytest.mark.parametrize("names", [("1", "2", "3"), ("0.5", "1.5"), ("01", "02", "gone"), ("1", "2", "other")])
def test_folders_named_by_numbers_are_classes_of_these_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "rated"
    for number, name in enumerate(name for name in names if name != "gone"):
        for video in range(4):
            sample_videos.write(folder / name / f"{video}.mp4", 20, seed=10 * number + video)
    if "gone" in names:
        (folder / "0").mkdir()
        (folder / "0" / "empty.mp4").touch()
    made = init(folder, device="a6000")
    usable = [name for name in names if name != "gone"]
    assert made.classes == dict.fromkeys(usable, 4)
    listing = from_table(Path(made.table), folder)
    assert listing.classes == usable
    assert all(video.path.startswith(f"{video.label_name}/") for video in listing.videos)


def test_clips_are_cut_by_time_where_rates_vary_and_the_reason_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "rated"
    for number, rate in enumerate((15, 25, 30, 60) * 6):
        frames = sample_videos.moving(5 * rate, 48, 64, seed=number)
        write_video(folder / "ab"[number % 8 // 4] / f"{number:02d}.mp4", frames, fps=rate)
    made = init(folder, device="a6000")
    params = load_params(Path("params.yaml"))
    step = params.benchmarks["rated"].data.frame_step
    assert step == ByTime(clip_seconds=2.0)
    text = Path("params.yaml").read_text()
    assert "frame_step: {clip_seconds: 2.0}" in text
    assert "frames by time, since rates vary from 15 to 60 a second: each clip spans 2 s" in " ".join(
        text.replace("#", " ").split()
    )
    (said,) = [line for line in made.warnings if "Frame rates" in line]
    assert "frames are taken by time, so that each clip spans 2 s" in said
    assert [p for p in problems(chain_scope(params)) if p.kind == "input"] == []


def test_a_table_of_several_classes_is_split_by_each_of_them_and_keeps_its_labels(tmp_path: Path) -> None:
    several_classes.write_set(tmp_path, 35)
    rows = list(csv.reader((tmp_path / "videos.csv").open(encoding="utf-8", newline="")))
    # Each a group of its own: videos that show the same things look alike.
    lines = ["path,label,group", *(f"{path},{label},{path}" for path, label, _ in rows[1:])]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    made = init(tmp_path / "mine.csv", device="a6000")
    assert made.classes == {"green": 20, "moves": 20, "red": 20}
    params = load_params(Path("params.yaml"))
    data = params.benchmarks["mine"].data
    assert (data.classes, sum(made.splits.values())) == (3, 35)
    assert "a video may have several" in Path("params.yaml").read_text()
    by_class = {name: Counter[str]() for name in several_classes.CLASSES}
    for row in table():
        assert sorted(row["label"].split("|")) == sorted(next(r[1] for r in rows if r[0] == row["path"]).split("|"))
        for name in row["label"].split("|"):
            by_class[name][row["split"]] += 1
    for counts in by_class.values():
        assert counts["train"] in range(12, 17)
        assert counts["test"] in range(2, 7)
        assert counts["val"] >= 1
    assert [p for p in problems(chain_scope(params)) if p.kind == "input"] == []
