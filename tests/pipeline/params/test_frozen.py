"""A stage computes with the parameters that it read at its start, and leaves nothing if they were edited meanwhile."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pipeline import layout
from pipeline.errors import DamagedError, EverestError, InputError
from pipeline.experiments.stage import run_stage
from pipeline.params import Params, declared, frozen, lookup, records
from pipeline.params.frozen import ParamsChangedError, check_unchanged, params_text
from pipeline.params.write import write_overrides

PARAMS = Path("params.yaml")
RESULT = Path("result.txt")
Body = Callable[[Params], None]


@pytest.fixture(autouse=True)
def _here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "recipes/drawn.yaml", PARAMS)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    """Runs `finetune motion` as its process does, with another body."""

    def run(body: Body) -> None:
        module = ModuleType("pipeline.stages.finetune")

        def whole(params: Params, benchmark: str | None) -> None:
            body(params)
            check_unchanged()
            RESULT.write_text(str(params.finetune.epochs))
            frozen.on_change(RESULT.unlink)

        module.run = whole  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pipeline.stages.finetune", module)
        run_stage("finetune", "motion")

    return run


def edit(**values: object) -> None:
    write_overrides(PARAMS, {key.replace("__", "."): value for key, value in values.items()})


@pytest.mark.parametrize(("key", "value", "text"), [
    ("finetune__epochs", 14, r"finetune\.epochs was 12 and is 14 now"),
    ("seed", 3, r"seed was 0 and is 3 now"),
    ("pretrain__size", "small", r"pretrain\.size was 'tiny' and is 'small' now"),
    ("benchmarks__motion__finetune__batch", 64, r"benchmarks\.motion\.finetune\.batch was None and is 64 now"),
    ("benchmarks__motion__data__frame_step", 2, r"benchmarks\.motion\.data\.frame_step was 1 and is 2 now"),
])  # fmt: skip
def test_an_edit_of_what_the_stage_reads_fails_it_before_it_publishes(
    stage: Callable[[Body], None], key: str, value: object, text: str
) -> None:
    with pytest.raises(ParamsChangedError, match=rf"while finetune@motion ran: {text}.*Nothing was recorded.*Cure"):
        stage(lambda params: edit(**{key: value}))
    assert not RESULT.exists()
    assert not layout.record_file("finetune", "motion").exists()


@pytest.mark.parametrize(("key", "value"), [
    ("pretrain__epochs", 3), ("evaluate__segments", 5), ("compute__ranks", 8), ("preprocess__workers", 5),
    ("benchmarks__state_change__finetune__epochs", 9), ("compare__seeds", [4]),
])  # fmt: skip
def test_an_edit_of_what_other_stages_read_does_not(stage: Callable[[Body], None], key: str, value: object) -> None:
    stage(lambda params: edit(**{key: value}))
    assert RESULT.read_text() == "12"
    assert json.loads(layout.record_file("finetune", "motion").read_text())["finetune.epochs"] == 12


@pytest.mark.parametrize("text", ["a: [1, 2", "", "- 1\n", None])
def test_a_file_that_cannot_be_read_any_more_fails_it_too(stage: Callable[[Body], None], text: str | None) -> None:
    def spoil(params: Params) -> None:
        PARAMS.unlink() if text is None else PARAMS.write_text(text)

    with pytest.raises(ParamsChangedError, match="finetune@motion ran"):
        stage(spoil)
    assert not RESULT.exists()


def test_an_edit_after_the_result_was_published_takes_it_back(
    stage: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check = frozen.Frozen.conclude

    def late(self: frozen.Frozen) -> None:
        assert RESULT.exists()
        edit(finetune__epochs=14)
        check(self)

    monkeypatch.setattr(frozen.Frozen, "conclude", late)
    with pytest.raises(ParamsChangedError, match="was 12 and is 14 now"):
        stage(lambda params: None)
    assert not RESULT.exists()
    assert not layout.record_file("finetune", "motion").exists()


def test_a_raised_version_fails_a_stage_that_ran_with_the_one_before(
    stage: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = {**declared.versions(), "selection": 99}
    monkeypatch.setattr(declared, "read_versions", lambda: raised)
    with pytest.raises(ParamsChangedError, match=r"^versions\.yaml changed .*versions\.selection was 1 and is 99 now"):
        stage(lambda params: None)
    with pytest.raises(ParamsChangedError, match=r"^params\.yaml and versions\.yaml changed"):
        stage(lambda params: edit(seed=3))
    edit(seed=0)
    monkeypatch.setattr(declared, "read_versions", lambda: {**declared.versions(), "drawing": 99})
    stage(lambda params: None)


def test_weights_that_change_meanwhile_are_named_by_their_folder(tmp_path: Path) -> None:
    edit(preprocess__map_source="embedding", preprocess__map_weights="weights")
    file = tmp_path / "weights" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"first")
    with frozen.frozen("preprocess", "motion") as now:
        now.check()
        file.write_bytes(b"second")
        with pytest.raises(ParamsChangedError, match=r"^weights changed .*preprocess\.map_weights\.sha256 was"):
            now.check()


def test_tracking_keeps_the_text_that_was_read(stage: Callable[[Body], None]) -> None:
    before, kept = PARAMS.read_text(), []

    def body(params: Params) -> None:
        edit(pretrain__epochs=3)
        kept.append(params_text())

    stage(body)
    assert kept == [before]
    assert params_text() != before


def test_an_output_of_other_parameters_is_not_read(stage: Callable[[Body], None]) -> None:
    raw = yaml.safe_load(PARAMS.read_text())
    record = layout.record_file("pretrain")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(declared.values("pretrain", None, raw)))
    stage(lambda params: None)
    edit(pretrain__epochs=3)
    wanted = r"finetune@motion reads outputs/pretrain, which pretrain computed with pretrain\.epochs = 24, now 3.*Cure"
    with pytest.raises(InputError, match=wanted):
        stage(lambda params: pytest.fail("it ran"))
    edit(finetune__init="scratch")
    stage(lambda params: None)


def lock(**changed: object) -> None:
    raw = yaml.safe_load(PARAMS.read_text())
    stage = declared.declared("pretrain", None)
    noted = {key: lookup(raw, key) for key in stage.params} | changed
    versions = {part: declared.versions()[part] for part in stage.versions}
    entry = {"cmd": "everest pretrain", "params": {"params.yaml": noted, "versions.yaml": versions}}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"pretrain": entry}}))


def test_what_dvc_noted_wrongly_is_told_from_what_was_computed() -> None:
    from pipeline.doctor import _data

    assert records.misrecorded("pretrain") is None
    lock()
    assert records.misrecorded("pretrain") is None, "nothing says what it was computed with"
    record = layout.record_file("pretrain")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(declared.values("pretrain", None, yaml.safe_load(PARAMS.read_text()))))
    assert records.misrecorded("pretrain") is None
    lock(seed=5)
    assert records.misrecorded("pretrain") == "pretrain was computed with seed = 0, noted as 5"
    check = next(check for check in _data() if check["check"] == "parameters of pretrain")
    assert check["status"] == "fail"
    assert "dvc repro --force --single-item pretrain" in check["cure"]
    for text in ("{", "[]", "\udcff"):
        record.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(DamagedError, match=r"record.*is damaged.*Cure: `dvc repro --force --single-item pretrain`"):
            records.read_record("pretrain", None)
        checks = _data()
        check = next(check for check in checks if check["check"] == "parameters of pretrain")
        assert (check["status"], "is damaged" in check["found"]) == ("fail", True)
        assert any(check["check"].startswith("data of") for check in checks), "the other checks are made"


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_a_lock_file_that_dvc_is_just_writing_is_waited_for(part: float, monkeypatch: pytest.MonkeyPatch) -> None:
    record = layout.record_file("pretrain")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(declared.values("pretrain", None, yaml.safe_load(PARAMS.read_text()))))
    lock()
    path = Path("dvc.lock")
    text = path.read_text()
    path.write_text(text[: int(part * len(text))])
    monkeypatch.setattr(records.time, "sleep", lambda seconds: path.write_text(text))
    assert records.misrecorded("pretrain") is None


def test_numbers_are_compared_as_dvc_reads_them() -> None:
    text = PARAMS.read_text()
    assert declared.parse("a: 1e-8\nb: no\n") == {"a": 1e-8, "b": "no"}
    PARAMS.write_text(text.replace("eps: 1.0e-8", "eps: 0.00000001"))
    with frozen.frozen("pretrain", None) as now:
        PARAMS.write_text(text)
        now.check()


def test_a_missing_file_names_the_recipe_that_writes_it() -> None:
    PARAMS.unlink()
    with pytest.raises(EverestError, match="everest recipe use demo"):
        run_stage("pretrain", None)


def test_a_new_record_is_not_written_into_the_file_that_dvc_has_linked(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    record = records.write_record("finetune", "motion", {"finetune.epochs": 4})
    record.rename(cached)
    record.hardlink_to(cached)
    cached.chmod(0o444)
    records.write_record("finetune", "motion", {"finetune.epochs": 50})
    assert json.loads(cached.read_text()) == {"finetune.epochs": 4}
    assert records.read_record("finetune", "motion") == {"finetune.epochs": 50}
