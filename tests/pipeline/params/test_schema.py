"""Parameters are checked before anything runs, and each message says key, value, bound and cure."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from models.registry import SIZES
from pipeline.errors import InputError
from pipeline.params import Params, check_params, consistency, flatten, key_schemas, known_keys, load_params


@pytest.fixture
def params_file(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(root / "recipes" / "drawn.yaml", tmp_path / "params.yaml"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"finetune.epoch": 2}, ["finetune.epoch: unknown key", "did you mean 'finetune.epochs'"]),
        ({"finetune.epochs": "ten"}, ["finetune.epochs = 'ten'", "integer"]),
        ({"pretrain.keep_ratio": 1.5}, ["pretrain.keep_ratio = 1.5", "less than or equal to 1"]),
        ({"pretrain.visible_ratio": 0.9}, ["visible_ratio = 0.9", "keep_ratio", "Cure"]),
        ({"benchmarks.motion.data.classes": 9}, ["benchmarks.motion.data.classes = 9", "8 classes"]),
        ({"pretrain.corpus": ["moton"]}, ["pretrain.corpus", "'moton'", "did you mean 'motion'"]),
        ({"clip.resolution": 65}, ["clip.resolution = 65", "multiple of the 16-pixel patch"]),
        ({"clip.frames": 15}, ["clip.frames = 15", "even"]),
        ({"clip.input": "flow"}, ["clip.input = 'flow'", "'rgb' or 'difference'"]),
        ({"pretrain.base_lr": float("nan")}, ["pretrain.base_lr", "finite"]),
        ({"seed": True}, ["seed = True", "integer"]),
        ({"evaluate.crops": True}, ["evaluate.crops = True: expected 1 or 3. Cure"]),
        ({"benchmarks.motion.evaluate.crops": True}, ["evaluate.crops = True: expected 1 or 3. Cure"]),
        ({"preprocess.short_side": 32}, ["preprocess.short_side = 32", "clip.resolution"]),
        ({"recipe": "../x"}, ["recipe: '../x' is no recipe's name"]),
        ({"compute.ranks": 10**6}, ["compute.ranks = 1000000", "less than or equal to 1024"]),
        ({"benchmarks.motion.data.source.train": 10**12}, ["source.train = 1000000000000", "1000000"]),
        ({"benchmarks.motion.data.raw": "../../x"}, ["benchmarks.motion.data.raw: '../../x'", "not absolute"]),
        ({"benchmarks.motion.data.raw": "/etc"}, ["benchmarks.motion.data.raw: '/etc'"]),
        ({"finetune.init": "../other"}, ["finetune.init: '../other' leads out of the project"]),
        ({"finetune.init": "./outputs/pretrain/"}, ["finetune.init", "by another name", "write outputs/pretrain"]),
        ({"preprocess.map_weights": "a\0b"}, ["preprocess.map_weights", "control character"]),
        ({"finetune.base_lr": "1e-3"}, ["finetune.base_lr = '1e-3'", "as text: write 1.0e-03"]),
        ({"finetune.base_lr": "125e-5"}, ["as text: write 1.25e-03."]),
        ({"finetune.base_lr": "1e400"}, ["finetune.base_lr = '1e400'", "set finetune.base_lr to a number."]),
        ({"finetune.epochs": "1e2"}, ["finetune.epochs = '1e2'", "as text: write 100."]),
        ({"finetune.epochs": "inf"}, ["finetune.epochs = 'inf'", "set finetune.epochs to a whole number."]),
        ({"finetune.epochs": "nan"}, ["finetune.epochs = 'nan'", "set finetune.epochs to a whole number."]),
        ({"finetune.epochs": "1e400"}, ["set finetune.epochs to a whole number."]),
        ({"pretrain.warmup_epochs": 99.0}, ["pretrain.warmup_epochs = 99 is longer than pretrain.epochs = 24"]),
        ({"benchmarks.motion.finetune.epochs": 1}, ["finetune.warmup_epochs = 2", "motion.finetune.epochs = 1"]),
        ({"finetune.rand_augment": "m7-x"}, ["finetune.rand_augment", "'x' is none of"]),
        ({"ingest.min_frames": 8}, ["clip.frames = 16 is more than ingest.min_frames = 8"]),
        ({"pretrain.betas": [0.9, 1.0]}, ["pretrain.betas.1 = 1.0", "less than 1"]),
        ({"finetune.crop_scale": [1.0, 0.5]}, ["finetune.crop_scale", "Cure: [0.5, 1.0]"]),
        ({"finetune.accumulate": 3}, ["finetune.batch = 32 does not divide by finetune.accumulate = 3"]),
        ({"pretrain.corpus": ["motion", "motion"]}, ["pretrain.corpus", "2 times"]),
        ({"finetune.train": "last"}, ["finetune.train: 'last'", "last-N"]),
        ({"finetune.train": "last-0"}, ["finetune.train: 'last-0'", "last-2"]),
        ({"finetune.train": "last-5"}, ["finetune.train = 'last-5'", "tiny has 4 blocks"]),
        ({"benchmarks.motion.finetune.train": "last-9"}, ["benchmarks.motion.finetune.train = 'last-9'"]),
        ({"finetune.train": "head", "finetune.frozen": True}, ["finetune.train = 'head' with finetune.frozen = true"]),
        ({"finetune.lora_rank": 8}, ["finetune.lora_rank = 8 with finetune.train = 'all'", "train: head"]),
        ({"finetune.lora_rank": 96, "finetune.train": "head"}, ["finetune.lora_rank = 96 is no low rank"]),
        ({"finetune.lora_rank": 0}, ["finetune.lora_rank = 0", "greater than or equal to 1"]),
        ({"pretrain.score_share": 1.5}, ["pretrain.score_share = 1.5", "less than or equal to 1"]),
        (
            {"pretrain.score_share": 0.7, "pretrain.strategy": "tube"},
            ["pretrain.score_share = 0.7 with pretrain.strategy = 'tube', which scores no tokens", "everest"],
        ),
        (
            {"finetune.strategy": "rlt", "compute.compile": True},
            ["finetune.strategy = rlt with compute.compile = true", "the same number for all clips"],
        ),
        (
            {"finetune.strategy": "rlt", "compute.compile": "graphs"},
            ["finetune.strategy = rlt with compute.compile = graphs", "the same number for all clips"],
        ),
        ({"compute.compile": "graph"}, ["compute.compile = 'graph': expected false, true or graphs. Cure"]),
        ({"compute.compile": 1}, ["compute.compile = 1: expected false, true or graphs. Cure"]),
        (
            {"compute.compile": "graphs", "compute.data_parallel": "fsdp"},
            ["compute.compile = 'graphs' with compute.data_parallel = 'fsdp'", "Cure: data_parallel: ddp"],
        ),
        (
            {"compute.compile": "graphs", "compute.activation_checkpointing": True},
            ["compute.compile = 'graphs' with compute.activation_checkpointing = true", "or compile: true"],
        ),
        (
            {"finetune.head": "places", "evaluate.strategy": "tome"},
            ["evaluate.strategy = 'tome' with finetune.head = 'places'", "have no place"],
        ),
        ({"finetune.strategy": "tome", "finetune.frozen": True}, ["finetune.strategy = 'tome' with finetune.frozen"]),
        (
            {"benchmarks.motion.finetune.score_share": 0.7, "compute.compile": True},
            ["benchmarks.motion.finetune.score_share = 0.7 with compute.compile = true", "compile: false"],
        ),
        (
            {"finetune.patience": 2, "finetune.validate_split": "test"},
            ["finetune.patience = 2", "the test videos would choose when training ends"],
        ),
        ({"clip.source": "videos"}, ["frame_selection.mode = 'cached'", "clip.source"]),
        ({"preprocess.frames": "every", "preprocess.keep_every": 2}, ["keep_every = 2 does not divide"]),
        (
            {"finetune.select": "best", "finetune.validate_split": "test"},
            ["finetune.select = 'best'", "finetune.validate_split = 'test'", "the test videos would choose"],
        ),
        (
            {"benchmarks.motion.finetune.select": "best", "benchmarks.motion.finetune.validate_split": "test"},
            ["benchmarks.motion.finetune.select = 'best'", "Cure: select: last"],
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_bound_and_cure(
    params_file: Path, overrides: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load_params(params_file, overrides)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name", ["--help", "-x", "a/b", "..", "", "x" * 300, "a.b", "a b", "cafe\u0301", "$(x)", "a\0"]
)
def test_a_name_that_could_not_name_folders_and_metrics_is_no_benchmarks(root: Path, name: str) -> None:
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["benchmarks"][name] = raw["benchmarks"]["motion"]
    with pytest.raises(InputError, match=r"cannot be a benchmark's name.* Cure: up to 64 letters") as caught:
        check_params(raw)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "words"), [("pretrain", "is taken by the pipeline"), ("Motion", "differ only by case")]
)
def test_a_name_that_would_be_mixed_up_with_another_is_refused(root: Path, name: str, words: str) -> None:
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["benchmarks"][name] = raw["benchmarks"]["motion"]
    with pytest.raises(InputError, match=words):
        check_params(raw)


def test_every_number_has_an_upper_bound() -> None:
    def unbounded(node: object, path: str) -> list[str]:
        if isinstance(node, list):
            return [key for entry in node for key in unbounded(entry, path)]
        if not isinstance(node, dict):
            return []
        number = node.get("type") in ("integer", "number") and "enum" not in node and "const" not in node
        here = [path] if number and not {"maximum", "exclusiveMaximum"} & set(node) else []
        return here + [key for name, entry in node.items() for key in unbounded(entry, f"{path}.{name}")]

    assert unbounded(Params.model_json_schema(), "") == []


def test_no_number_may_be_a_boolean(root: Path) -> None:
    def takes_booleans(schema: object) -> bool:
        nodes = schema.get("anyOf", [schema]) if isinstance(schema, dict) else []
        return any(node.get("type") == "boolean" for node in nodes)

    content = yaml.safe_load((root / "params.yaml").read_text())
    keys = [key for key, schema in key_schemas().items() if not takes_booleans(schema)]
    for dotted in (key.replace("*", "motion") for key in keys):
        for value in (True, [True]):
            with pytest.raises(InputError):
                check_params(deepcopy(content), overrides={dotted: value})


def test_every_fault_gets_its_own_line(params_file: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_params(params_file, {"finetune.epochs": 0, "pretrain.keep_ratio": 2.0})
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_and_broken_yaml_are_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist. Cure"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_yaml_that_asks_for_code_is_not_run(tmp_path: Path) -> None:
    evil = tmp_path / "params.yaml"
    evil.write_text(f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path {{}}]\n# {tmp_path}")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(evil)


def test_a_benchmark_overrides_only_what_it_names(params_file: Path) -> None:
    params = load_params(params_file, {"benchmarks.motion.finetune.epochs": 3})
    assert params.finetune_of("motion").epochs == 3
    assert params.finetune_of("state_change").epochs == params.finetune.epochs
    assert params.finetune_of("motion").base_lr == params.finetune.base_lr


def test_a_file_from_before_what_learns_could_be_chosen_means_what_it_did(params_file: Path) -> None:
    lines = params_file.read_text().splitlines(keepends=True)
    params_file.write_text("".join(line for line in lines if line.strip().split(":")[0] not in ("train", "lora_rank")))
    assert params_file.read_text().count("train: all") == 0
    stage = load_params(params_file).finetune
    assert (stage.train, stage.lora_rank) == ("all", None)


def test_the_encoders_shapes_are_those_of_the_models() -> None:
    sizes = {name: (size.embed_dim, size.depth) for name, size in SIZES.items()}
    assert sizes == consistency.SHAPES


def test_params_are_immutable(params_file: Path) -> None:
    params = load_params(params_file)
    with pytest.raises(ValueError, match="frozen"):
        params.finetune.epochs = 3  # type: ignore[misc]


def test_an_unknown_benchmark_names_those_that_exist(params_file: Path) -> None:
    with pytest.raises(InputError, match="motion, state_change"):
        load_params(params_file).benchmark("motions")


def test_the_committed_params_are_the_demo_recipe(root: Path) -> None:
    read = [yaml.safe_load((root / name).read_text()) for name in ("params.yaml", "recipes/demo.yaml")]
    assert read[0] == read[1]


def test_every_recipe_is_valid_and_its_keys_are_known(root: Path) -> None:
    recipes = sorted((root / "recipes").glob("*.yaml"))
    assert len(recipes) >= 6
    for path in recipes:
        params = load_params(path)
        assert params.recipe == path.stem
        for key in flatten(params.finetune):
            assert f"finetune.{key}" in known_keys()


def test_what_a_clip_shows_is_left_out_of_fingerprints_where_it_is_the_paper_s(params_file: Path) -> None:
    clip = load_params(params_file).clip.model_dump()
    assert load_params(params_file, {"clip.input": "rgb"}).clip.model_dump() == clip
    assert load_params(params_file, {"clip.input": "difference"}).clip.model_dump() == clip | {"input": "difference"}
