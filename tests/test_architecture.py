"""The directions of imports and the one-owner rules, read from the source itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import rooms

OURS = ("models", "pipeline", "flows")
DOCS = Path(rooms.__file__).parent
#: Who alone may import what; for a package with two parts, both.
OWNERS = {
    "decord": ("pipeline/data/video",),
    "av": ("pipeline/data/video",),
    "mlflow": ("pipeline/tracking/store/",),
    "boto3": ("pipeline/data/sources/s3.py",),
    "torch.distributed": ("pipeline/distributed/groups.py",),
    "fcntl": ("pipeline/system/",),
}
#: Who alone may flush and rename files, take signals and talk to the kernel: `models/` may import nothing of pipeline.
OWNERS_OF_CALLS = {
    "fsync": ("pipeline/system/files.py", "models/weights.py"),
    "rename": ("pipeline/system/files.py",),
    "replace": ("pipeline/system/files.py", "pipeline/system/progress.py", "models/weights.py"),
    "link": ("pipeline/system/files.py",),
    "signal": ("pipeline/system/processes.py",),
    "prctl": ("pipeline/system/processes.py",),
}
#: [lines] of a module, at most.
LONGEST = 330
#: Places that say `Any`, in all: what third parties give, and little else.
MOST_ANY = 120
#: What a flow may know of pipeline/: enough to refuse bad input and to make a workspace, nothing that needs torch.
OPEN_TO_FLOWS = {
    f"pipeline.{name}"
    for name in (
        "params",
        "errors",
        "layout",
        "system",
        "notices",
        "monitor.record",
        "tracking.headline",
        "experiments.workspace",
        "distributed.devices",
        "distributed.device_table",
        "operations.server",
    )
}


def sources(root: Path) -> list[Path]:
    return list(rooms.sources(root).values())


def starts(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_models_know_nothing_of_ours_and_no_tool(root: Path) -> None:
    forbidden = ("pipeline", "flows", "yaml", "mlflow", "prefect", "dvc", "torch.distributed", "pydantic")
    for path in sources(root):
        if path.relative_to(root).parts[0] == "models":
            found = [m for m in rooms.imports(path) if any(starts(m, f) for f in forbidden)]
            assert not found, f"{path} imports {found}"


def test_pipeline_knows_nothing_of_flows(root: Path) -> None:
    for path in sources(root):
        if path.relative_to(root).parts[0] == "pipeline":
            assert not [m for m in rooms.imports(path) if starts(m, "flows")], path


def test_flows_know_only_the_parameters_of_pipeline(root: Path) -> None:
    for path in sources(root):
        if path.relative_to(root).parts[0] == "flows":
            ours = {m for m in rooms.imports(path) if starts(m, "pipeline") or starts(m, "models")}
            strays = {m for m in ours if not any(starts(m, allowed) for allowed in OPEN_TO_FLOWS)} - {"pipeline"}
            assert not strays, f"{path} imports {strays}"
            assert not [m for m in rooms.imports(path) if starts(m, "torch") or starts(m, "mlflow")], path


def test_only_the_system_room_runs_git(root: Path) -> None:
    for path in sources(root):
        if path.relative_to(root).parts[:2] == ("pipeline", "system"):
            continue
        commands = [
            node.elts[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.List | ast.Tuple) and node.elts
        ]
        assert not [c for c in commands if isinstance(c, ast.Constant) and c.value == "git"], path


def test_stages_do_not_import_stages_and_helpers_do_not_either(root: Path) -> None:
    for path in sources(root):
        found = [m for m in rooms.imports(path) if starts(m, "pipeline.stages")]
        if path.parts[-2:-1] == ("commands",):  # the command line is above the stages
            continue
        assert not found, f"{path} imports {found}"


@pytest.mark.parametrize("package", OWNERS)
def test_a_tool_has_one_owner(root: Path, package: str) -> None:
    for path in sources(root):
        name = str(path.relative_to(root))
        if any(name.startswith(owner) for owner in OWNERS[package]):
            continue
        assert not [m for m in rooms.imports(path) if starts(m, package)], f"{name} imports {package}"


def _system_calls(path: Path) -> set[str]:
    """Names of OWNERS_OF_CALLS that a module calls; `text.replace(a, b)` and `dataclasses.replace` are others."""
    calls = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            module = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if name in ("rename", "replace"):  # of a path, or of `os`
                ours = module == "os" or (len(node.args) == 1 and not node.keywords and module != "dataclasses")
            else:
                ours = module == {"fsync": "os", "link": "os", "signal": "signal"}.get(name, module)
            calls |= {name} if ours else set()
    return calls & OWNERS_OF_CALLS.keys()


@pytest.mark.parametrize("call", OWNERS_OF_CALLS)
def test_what_keeps_files_whole_and_processes_in_order_has_one_owner(root: Path, call: str) -> None:
    callers = {str(path.relative_to(root)) for path in sources(root) if call in _system_calls(path)}
    assert callers <= set(OWNERS_OF_CALLS[call])


def test_modules_are_short(root: Path) -> None:
    lines = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in sources(root)}
    assert not {name: count for name, count in lines.items() if count > LONGEST}


def test_what_crosses_a_file_or_a_process_has_a_type_of_its_own(root: Path) -> None:
    count = {
        str(path.relative_to(root)): sum(
            isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(path.read_text()))
        )
        for path in sources(root)
    }
    assert sum(count.values()) < MOST_ANY, {name: number for name, number in count.items() if number > 2}


def test_no_module_and_no_room_imports_in_a_circle_wherever_the_import_stands(root: Path) -> None:
    modules = rooms.module_graph(root)
    assert rooms.circles(modules) == []
    assert rooms.circles(rooms.room_graph(modules)) == []


def test_rooms_are_small(root: Path) -> None:
    for folder in {path.parent for path in sources(root)}:
        modules = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
        assert len(modules) <= (8 if folder == root / "pipeline" else 13), f"{folder} holds {len(modules)} modules"


def test_the_picture_of_the_rooms_is_of_todays_rooms(root: Path) -> None:
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture(root), "Cure: python docs/rooms.py"


def test_the_page_of_the_architecture_has_a_line_for_each_room_of_today(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([^` ]+)` \|", page, re.MULTILINE))
    files = {room: room.replace(".", "/") for room in rooms.room_graph(rooms.module_graph(root))}
    today = {f"{path}/" if path in ("models", "flows") else _place(root, path) for path in files.values()}
    assert listed - {"models/strategies/", "models/tuning/", "models/unequal/", "flows/chain/"} == today


def _place(root: Path, room: str) -> str:
    return f"pipeline/{room}/" if (root / "pipeline" / room).is_dir() else f"pipeline/{room}.py"


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in DOCS.glob("*.md"))]
)
def test_every_module_and_folder_that_a_page_names_exists(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:models|pipeline|flows|tests|docs|recipes|docker)/[\w./-]*)`", text))
    dotted = set(re.findall(r"`((?:models|pipeline|flows)(?:\.\w+)+)`", text))
    modules = rooms.sources(root)
    strays = [name for name in named if not (root / name).exists()]
    strays += [name for name in dotted if name not in modules and name.rpartition(".")[0] not in modules]
    assert not strays, f"{page} names {sorted(strays)}, which do not exist"


def test_every_folder_and_module_of_the_list_of_files_in_readme_exists(root: Path) -> None:
    listing = (root / "README.md").read_text(encoding="utf-8").split("## The files")[1].split("```")[1]
    folder, strays = "", []
    for line in filter(None, listing.splitlines()):
        folder = folder if line.startswith("  ") else line.split()[0] if line.split()[0].endswith("/") else ""
        names = line.strip().split("  ")[0].split()
        strays += [name for name in names if not (root / (folder if line.startswith("  ") else "") / name).exists()]
    assert not strays


def test_programs_in_strings_import_modules_that_exist(root: Path) -> None:
    modules, strays = rooms.sources(root), []
    line = re.compile(r"\bfrom ((?:models|pipeline|flows)(?:\.\w+)*) import (\w+)")
    for path in [*modules.values(), *(root / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module, name in line.findall(node.value):
                    known = modules[module].read_text(encoding="utf-8") if module in modules else ""
                    if f"{module}.{name}" not in modules and not re.search(rf"\b{name}\b", known):
                        strays.append(f"{path.relative_to(root)}: from {module} import {name}")
    assert not strays


def test_only_packages_that_we_declare_are_imported(root: Path) -> None:
    import sys

    declared = (root / "pyproject.toml").read_text().replace("-", "_").lower()
    aliases = {
        "pil": "pillow", "yaml": "pyyaml", "pydantic_core": "pydantic", "ruamel": "ruamel_yaml",
        "sklearn": "scikit_learn", "pynvml": "nvidia_ml_py", "botocore": "boto3", "distributed": "dask",
        "triton": "torch",  # comes with it
    }  # fmt: skip
    for path in sources(root):
        for module in rooms.imports(path):
            top = module.split(".")[0].lower()
            if top in sys.stdlib_module_names or top in OURS or top == "__future__":
                continue
            name = aliases.get(top, top)
            assert re.search(rf'"{name}[\[><=";]', declared), f"{path} imports {top}, which pyproject.toml lacks"


def test_yaml_and_weights_are_read_without_running_code(root: Path) -> None:
    for path in sources(root):
        text = path.read_text()
        assert not re.search(r"yaml\.(load|unsafe_load|full_load)\(", text), path
        assert "weights_only=False" not in text, path
        assert not re.search(r"\bpickle\.loads?\(", text), path
