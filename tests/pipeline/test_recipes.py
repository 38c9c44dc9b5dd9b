"""Recipes are complete params files, and each deviation from the published ones has a name."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import recipes
from pipeline.cli import app
from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.setup.files import check_target

ALL = [
    "demo", "drawn", "hmdb51", "k400", "oscc", "scenes", "ssv2", "ucf101",
    "videomae_hmdb51", "videomae_k400", "videomae_oscc", "videomae_ssv2", "videomae_ucf101",
]  # fmt: skip


def _deviations(name: str) -> dict[str, tuple[object, object]]:
    rows = recipes.diff_recipe(name)
    return {row["key"]: (row["paper"], row["ours"]) for row in rows if row["paper"] != recipes.NOT_STATED}


def test_every_benchmark_has_both_recipes() -> None:
    assert recipes.names() == ALL


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_is_a_complete_and_valid_params_file_named_after_itself(name: str) -> None:
    assert load_params(recipes.recipe_path(name)).recipe == name


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_everests_published_recipes_deviate_in_the_cached_frame_selection_only(name: str) -> None:
    assert _deviations(name) == {"pretrain.frame_selection.mode": ("online", "cached")}


@pytest.mark.parametrize("name", ["videomae_ucf101", "videomae_k400", "videomae_ssv2"])
def test_videomaes_published_recipes_are_followed_to_the_letter(name: str) -> None:
    assert _deviations(name) == {}


@pytest.mark.parametrize("name", ["k400", "ssv2", "oscc", "videomae_hmdb51", "videomae_oscc"])
def test_what_was_not_published_is_marked_as_ours(name: str) -> None:
    unstated = {row["key"] for row in recipes.diff_recipe(name) if row["paper"] == recipes.NOT_STATED}
    assert {"pretrain.base_lr", "pretrain.batch", "pretrain.epochs", "finetune.base_lr"} <= unstated
    marked = [line for line in recipes.show_recipe(name).splitlines() if line.strip().startswith("base_lr")]
    assert len(marked) == 2
    assert all("ours" in line for line in marked)


def test_the_demo_names_its_deviations_with_both_values() -> None:
    result = _deviations("demo")
    assert result["clip.resolution"] == (224, 96)
    assert result["pretrain.epochs"][0] == 3200
    assert result["pretrain.size"] == ("base", "mini")


def test_one_row_serves_all_benchmarks_that_share_a_value() -> None:
    rows = {row["key"]: row for row in recipes.diff_recipe("drawn")}
    assert rows["clip.resolution"]["benchmark"] == "motion, state_change"


def test_the_list_counts_deviations() -> None:
    rows = {row["recipe"]: row for row in recipes.list_recipes()}
    assert rows["videomae_ucf101"]["deviations"] == 0
    assert rows["hmdb51"]["pretrain_epochs"] == 4800


def test_using_a_recipe_writes_it_and_keeps_own_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "now holds recipe ucf101" in recipes.use_recipe("ucf101")
    assert "already" in recipes.use_recipe("ucf101")
    recipes.use_recipe("demo")
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text() + "# mine\n")
    with pytest.raises(InputError, match=r"values of yours.*--force"):
        recipes.use_recipe("ucf101")
    recipes.use_recipe("ucf101", force=True)
    assert load_params().recipe == "ucf101"


def test_a_shown_recipe_is_no_edit_and_what_is_no_text_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(CliRunner().invoke(app, ["recipe", "show", "demo"], catch_exceptions=False).stdout)
    recipes.use_recipe("ucf101")
    params.write_bytes("# für Größe\n".encode("latin-1"))
    with pytest.raises(InputError, match="values of yours"):
        recipes.use_recipe("demo")
    recipes.use_recipe("demo", force=True)
    assert load_params().recipe == "demo"
    params.unlink()
    params.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        recipes.use_recipe("demo", force=True)


def test_a_params_file_that_cannot_be_read_is_written_over_with_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").symlink_to("/proc/self/mem")  # no user may read its first byte
    told = r"cannot be read \(Input/output error\): it may hold values of yours, .*--force"
    with pytest.raises(InputError, match=told):
        recipes.use_recipe("demo")
    with pytest.raises(InputError, match=told):
        check_target(force=False)
    check_target(force=True)
    recipes.use_recipe("demo", force=True)
    assert load_params().recipe == "demo"


def test_an_unknown_recipe_has_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"'ucf'.*did you mean 'ucf101'"):
        recipes.show_recipe("ucf")


@pytest.mark.parametrize("name", ALL)
def test_a_fine_tuning_is_validated_at_ten_points_at_least(name: str) -> None:
    stage = load_params(recipes.recipe_path(name)).finetune
    assert stage.epochs // stage.validate_every_epochs >= 10
