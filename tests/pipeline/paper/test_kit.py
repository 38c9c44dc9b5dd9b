"""The paper's folder: the report's numbers to the digit, each with its origin; nothing of yours is overwritten."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from comparison_summary import comparison_summary

from pipeline import layout
from pipeline.errors import EverestError, InputError
from pipeline.paper import kit
from pipeline.paper.kit import FILES, command
from pipeline.report.comparison_page import write_comparison
from pipeline.system.files import sha256_of

STRATEGIES = ("everest", "tube", "everest-keep-0.4", "scratch")
BENCHMARKS = ("motion", "cl_ips & 50% of #1 $x {y} ^~ \\x -- <z>")


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished comparison, its report written by the report's own code; no tracking store."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(root / "recipes" / "drawn.yaml", folder / "params.yaml")
    write_comparison(comparison_summary(STRATEGIES, BENCHMARKS), folder / layout.output_dir("compare"))
    return folder


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""
    monkeypatch.setattr(kit, "_draw", lambda found, folder: [])


@pytest.fixture
def here(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(checkout, tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("EVEREST_CELLS", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    return tmp_path / "checkout"


def rows_of(markdown: str) -> list[list[str]]:
    """Cells of all tables of a page, as they read."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in cells]


def latex_rows(text: str) -> list[list[str]]:
    """Cells of a tabular: between rules, split at what parts cells and rows."""
    body = re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    lines = [line for part in body for line in part.splitlines() if line != r"\midrule"]
    assert all(line.endswith(r" \\") for line in lines)
    return [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in lines]


def read_back(cell: str) -> str:
    """What LaTeX would set for a cell of ours."""
    words = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
             r"\textgreater{}": ">", r"\textbar{}": "|", r"\textquotedbl{}": '"', r"\textasciigrave{}": "`",
             r"\textquotesingle{}": "'", r"$\times$": "×", "$-$": "-", "-{}-": "--"}  # fmt: skip
    found = re.split("(" + "|".join(map(re.escape, [*words, *(f"\\{c}" for c in "_&%#${}"), "--"])) + ")", cell)
    return "".join(words.get(part) or ("–" if part == "--" else part.removeprefix("\\")) for part in found)


@pytest.mark.usefixtures("without_figures")
def test_every_number_is_the_reports_to_the_digit_in_both_forms(here: Path) -> None:
    written = command(here / "paper")
    report = rows_of((here / "outputs/compare/report.md").read_text())
    for name in ("comparison", "differences", "comparison_cost"):
        markdown = rows_of((here / f"paper/tables/{name}.md").read_text())
        assert len(markdown) > len(BENCHMARKS)
        assert all(row in report for row in markdown), name
        latex = (here / f"paper/tables/{name}.tex").read_text()
        assert [[read_back(cell) for cell in row] for row in latex_rows(latex)] == markdown
    assert written["tables"] == [
        "comparison",
        "differences",
        "comparison_cost",
        "published_cost",
        "deviations",
        "origins",
    ]


@pytest.mark.usefixtures("without_figures")
def test_each_number_has_its_commit_data_and_the_command_that_makes_it_again(here: Path) -> None:
    written = command(here / "paper")
    with (here / "paper/numbers.csv").open(newline="") as file:
        numbers = list(csv.DictReader(file))
    assert len(numbers) == written["numbers"]
    assert written["numbers_with_runs"] == 0, "there is no tracking store"
    assert {row["commit"] for row in numbers} == {"e" * 12}
    assert all("manifest, cache abababababab, cdcdcdcdcdcd" in row["data"] for row in numbers)
    again = "everest compare --strategies everest,tube,everest-keep-0.4,scratch --seeds 0,1 --equal multiply-adds"
    assert all(row["command"].startswith(again) for row in numbers)
    top1 = next(row for row in numbers if row["number"] == "top-1 %" and row["row"] == "motion everest")
    summary = json.loads((here / "outputs/compare/summary.json").read_text())
    assert top1["value"] == f"{summary['results'][0]['top1']:.1f}"
    assert "there is no tracking store" in " ".join(written["left_out"])
    readme = (here / "paper/README.md").read_text()
    assert again in readme
    assert "there is no tracking store" in readme


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(("splits", "ends"), [((1, 3), "--seeds 0,5 --splits 1,3"), ((None,), "--seeds 0,5")])
def test_a_repetition_is_made_again_with_its_seeds_and_splits(
    here: Path, splits: tuple[int | None, ...], ends: str
) -> None:
    score = {"benchmark": "hmdb51", "top1": 50.0, "videos_ok": 9, "videos_total": 9}
    scores = [{**score, "split": split, "seed": seed} for split in splits for seed in (0, 5)]
    result = {"benchmark": "hmdb51", "splits": 2, "seeds": 2, "mean": 50.0, "between_splits": 0.1, "between_seeds": 0.2}
    summary = {"recipe": "hmdb51", "scores": scores, "results": [result], "versions": {"git.commit": "e" * 40}}
    Path("outputs/repeat").mkdir()
    Path("outputs/repeat/summary.json").write_text(json.dumps({**summary, "sentences": []}))
    command(here / "paper")
    with (here / "paper/numbers.csv").open(newline="") as file:
        commands = {row["command"] for row in csv.DictReader(file) if row["table"].startswith("repe")}
    assert commands == {f"everest repeat {ends}"}


@pytest.mark.usefixtures("without_figures")
def test_a_training_that_the_store_knows_is_named_with_its_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real runs in a real store: the test's, and by the weights that it read, the other two."""
    from pipeline.tracking.store import Store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    store = Store()
    folder = here / ".work/compare/training-0-0"
    ids = []
    for stage, before in (("pretrain", ""), ("finetune/motion", "pretrain"), ("evaluate/motion", "finetune/motion")):
        name = "predictions.parquet" if stage.startswith("evaluate") else "model.safetensors"
        path = folder / "outputs" / stage / name
        path.parent.mkdir(parents=True)
        path.write_bytes(stage.encode())
        tag = "everest.predictions_sha256" if name.startswith("pred") else "everest.weights_sha256"
        weights = f"outputs/{before}/model.safetensors"
        read = {weights: sha256_of(folder / weights)} if before else {}
        tags = {
            tag: sha256_of(path), "dvc.stage": stage.replace("/", "@"), "git.commit": "f" * 40, "git.dirty": "true",
            "everest.comparison": "everest-seed0", "everest.inputs": json.dumps(read),
        }  # fmt: skip
        ids.append(store.create_run("e", stage, stage, 0, tags))
    command(here / "paper")
    with (here / "paper/numbers.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["row"].startswith("motion everest")]
    assert rows[0]["runs"].split() == ids[::-1]
    assert rows[0]["commit"] == f"{'f' * 12}, with uncommitted changes, {'e' * 12}", (
        "and the report's for the other seed"
    )
    origins = rows_of((here / "paper/tables/origins.md").read_text())
    assert origins[1][:6] == ["motion", "everest", "0", *(one[:12] for one in ids[::-1])]


@pytest.mark.parametrize("name", ["motion", "[x]", "*y", "a--b", "_%&#${}~^\\<>|\"'`", "two\nlines", "\x1b[31mred"])
@pytest.mark.usefixtures("without_figures")
def test_latex_sets_any_name_as_it_is_with_balanced_environments_and_columns(here: Path, name: str) -> None:
    shutil.rmtree(here / "outputs")
    summary = comparison_summary(("everest", "tube"), [name], seeds=[0])
    folder = here / layout.output_dir("compare")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    command(here / "paper")
    for path in [*(here / "paper/tables").glob("*.tex"), here / "paper/paper.tex"]:
        check_structure(path.read_text())
    first = latex_rows((here / "paper/tables/comparison.tex").read_text())[1][0]
    assert not first.startswith(("[", "*")), "an argument of the row before"
    if name.isprintable():
        assert read_back(first.removeprefix("{}")) == name


def check_structure(text: str) -> None:
    """Environments nest, braces balance, each row has as many cells as its tabular has columns, nothing is left raw."""
    open_ones: list[str] = []
    for begins, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if begins == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\.", "", code)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[#^%~]", bare)
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", code, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}


@pytest.mark.usefixtures("without_figures")
def test_a_long_table_is_parted_over_pages(here: Path) -> None:
    command(here / "paper")
    text = (here / "paper/tables/deviations.tex").read_text()
    floats = text.count(r"\begin{table*}")
    assert floats == -(-len(rows_of((here / "paper/tables/deviations.md").read_text())[1:]) // 48)
    assert ("(1 of 2)" in text) == (floats == 2)


def test_the_same_numbers_give_the_same_files(here: Path) -> None:
    written = command(here / "paper")
    assert [written["figures"].count(f"scores_{number}") for number in (1, 2)] == [1, 1], "one for each benchmark"
    check_structure((here / "paper/paper.tex").read_text())
    for name in written["figures"]:
        assert (here / f"paper/figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    first = (here / "paper" / FILES).read_text()
    command(here / "paper")
    assert (here / "paper" / FILES).read_text() == first


@pytest.mark.usefixtures("without_figures")
def test_nothing_finished_is_refused_and_what_is_half_finished_is_named(here: Path) -> None:
    shutil.rmtree(here / "outputs")
    with pytest.raises(InputError, match=r"no finished experiment in .*Cure: `everest run`"):
        command(here / "paper")
    tested = here / layout.results_file("evaluate", "motion")
    tested.parent.mkdir(parents=True)
    tested.write_text(json.dumps({"eval/top1": 0.5}))
    trained = here / layout.results_file("finetune", "state_change")
    trained.parent.mkdir(parents=True)
    trained.write_text("{}")
    with pytest.raises(
        InputError, match="motion: tested, but there is no report.*state_change: fine-tuned, not tested"
    ):
        command(here / "paper")
    assert not (here / "paper").exists()


@pytest.mark.usefixtures("without_figures")
def test_a_training_in_no_report_and_one_that_changed_since_are_named(here: Path) -> None:
    cell = here / ".work/compare/tube-seed3-abc"
    (cell / "outputs").mkdir(parents=True)
    (cell / "params.yaml").write_text("x: 1")
    for seed in (0, 1):
        again = here / f".work/compare/training-0-{seed}" / layout.results_file("evaluate", "motion")
        again.parent.mkdir(parents=True)
        again.write_text(json.dumps({"eval/top1": 0.9}))
    left_out = " ".join(command(here / "paper")["left_out"])
    assert "tube-seed3-abc: in no report; it has finished no stage" in left_out
    assert re.search(r"everest on motion: the report says 20\.\d %, its trainings now 90\.0 %", left_out)
    assert "tube on motion: 2 of its trainings are gone" in left_out


@pytest.mark.usefixtures("without_figures")
def test_a_damaged_summary_is_named_with_its_cure(here: Path) -> None:
    path = here / "outputs/compare/summary.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(EverestError, match=r"outputs/compare/summary\.json is no JSON .*Cure: `dvc checkout"):
        command(here / "paper")
    path.write_text("{}")
    with pytest.raises(EverestError, match="has no results, costs, trainings"):
        command(here / "paper")


@pytest.mark.usefixtures("without_figures")
def test_a_folder_with_your_files_is_not_touched(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"did not write \(thesis\.tex\)\. Cure: --out another folder"):
        command(here / "mine")
    command(here / "paper")
    (here / "paper/tables/comparison.tex").write_text("edited")
    with pytest.raises(InputError, match=r"changed or added since: tables/comparison\.tex\. Cure: move it away"):
        command(here / "paper")
    assert (here / "paper/tables/comparison.tex").read_text() == "edited"
    (here / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        command(here / "file")


@pytest.mark.usefixtures("without_figures")
def test_a_place_that_cannot_be_written_is_bad_input(here: Path) -> None:
    (here / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written: Not a directory\. Cure: --out a folder"):
        command(here / "file" / "paper")
    if os.geteuid():
        (here / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match=r"cannot be written: Permission denied\. Cure"):
            command(here / "locked" / "paper")


def test_the_seeds_of_one_training_and_many_strategies_are_drawn_readably(here: Path) -> None:
    """Twenty-five strategies: numbered beside their points, no file larger than a page of text."""
    shutil.rmtree(here / "outputs")
    names = [f"strategy-{place}" for place in range(25)]
    folder = here / layout.output_dir("compare")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(comparison_summary(names, ["motion"], seeds=[0])))
    written = command(here / "paper")
    assert written["figures"] == ["scores_1", "differences_1", "multiply_adds_1", "time_1", "memory_1", "curves_1"]
    sizes = [path.stat().st_size for path in (here / "paper/figures").glob("*.pdf")]
    assert max(sizes) < 60_000, "vectors and a part of one font"
