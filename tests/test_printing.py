"""Whatever is printed, tabled or told by a bar goes through `pipeline.system.text`, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Who makes text safe to show, or gives a number.
SAFE = {
    "printable",
    "visible",
    "_text",
    "table",
    "Text",
    "_styled",
    "markdown",
    "code",
    "len",
    "round",
    "sum",
    "dumps",
    "json_document",
    "strftime",
}
#: Attribute or function -> the arguments that are shown (all of them: None).
SINKS: dict[str, tuple[str, ...] | None] = {
    "print": None,
    "write": None,
    "echo": None,
    "Text": None,
    "Table": ("title", "caption"),
    "Column": None,
    "add_column": None,
    "add_row": None,
    "add_task": None,
    "track": ("description",),
    "update": ("description",),
}
#: What one process of ours prints for another, or into a file: not for eyes.
MACHINES = {("pipeline/bench/overhead.py", "run.path")}


def sinks(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Every call that shows something, with the function that it stands in."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in SINKS:
            scope: ast.AST = node
            while not isinstance(scope, ast.FunctionDef | ast.Module):
                scope = parents[scope]
            yield node, scope


def name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def shown(call: ast.Call) -> list[ast.expr]:
    """The arguments of a call that a person sees."""
    name = name_of(call.func)
    text = ast.unparse(call.func)
    if name == "write" and text not in ("sys.stderr.write", "sys.stdout.write"):
        return []
    if text == "echo":  # our own, which makes its text safe
        return []
    if name == "print" and any(word.arg == "file" for word in call.keywords):
        return [argument for argument in call.args if not isinstance(argument, ast.Constant)]
    wanted = SINKS[name]
    named = [word.value for word in call.keywords if wanted and word.arg in wanted]
    return named if wanted else list(call.args)


def safe(node: ast.expr, scope: ast.AST, seen: frozenset[str] = frozenset()) -> bool:
    """Whether an expression is literal, a number or goes through one of SAFE."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.JoinedStr):
        return all(safe(part, scope, seen) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        spec = "".join(
            str(part.value) for part in getattr(node.format_spec, "values", []) if isinstance(part, ast.Constant)
        )
        return spec[-1:] in ("d", "f", "g", "%") or safe(node.value, scope, seen)
    if isinstance(node, ast.Call):
        return name_of(node.func) in SAFE
    if isinstance(node, ast.Starred | ast.Subscript):  # a part of what is safe is safe
        return safe(node.value, scope, seen)
    if isinstance(node, ast.GeneratorExp):
        return safe(node.elt, scope, seen)
    if isinstance(node, ast.BinOp):
        return safe(node.left, scope, seen) and safe(node.right, scope, seen)
    if isinstance(node, ast.IfExp):
        return safe(node.body, scope, seen) and safe(node.orelse, scope, seen)
    if isinstance(node, ast.Name):
        if node.id.isupper():
            return True
        values = [
            found.value
            for found in ast.walk(scope)
            if isinstance(found, ast.Assign) and any(name_of(target) == node.id for target in found.targets)
        ]
        return node.id not in seen and bool(values) and all(safe(v, scope, seen | {node.id}) for v in values)
    return False


def sources(root: Path) -> list[Path]:
    return [path for package in ("models", "pipeline", "flows") for path in sorted((root / package).rglob("*.py"))]


def faults(text: str, name: str) -> list[str]:
    return [
        f"{name}:{call.lineno}: {ast.unparse(argument)}"
        for call, scope in sinks(ast.parse(text))
        for argument in shown(call)
        if not safe(argument, scope) and (name, ast.unparse(argument)) not in MACHINES
    ]


def test_everything_that_is_shown_goes_through_one_function(root: Path) -> None:
    unsafe = [fault for path in sources(root) for fault in faults(path.read_text(), str(path.relative_to(root)))]
    assert unsafe == []


@pytest.mark.parametrize(
    "line",
    [
        "print(name)",
        "typer.echo(f'read {path}')",
        "sys.stderr.write(f'{path}: {count:d}')",
        "table.add_row(*(str(row) for row in rows))",
        "table.add_column(name, justify='right')",
        "bar.add_task(f'  {file[-40:]}', total=3)",
        "Table(title=title)",
        "bar.track(items, description=label)",
        "bar.update(task, description=told)",
        "console.print('a' if x else name)",
    ],
)
def test_the_walk_finds_a_name_that_is_shown_as_it_comes(line: str) -> None:
    assert faults(f"def f(name, path, rows, title, label, told, file):\n    {line}", "x.py")
    assert not faults("def f(name):\n    line = printable(name)\n    print(f'{line} {3.5:.1f}')", "x.py")


def test_rich_has_one_owner_and_never_reads_markup_in_a_description(root: Path) -> None:
    for path in sources(root):
        name = str(path.relative_to(root))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
                strays = {alias.name for alias in node.names if not alias.name.endswith("Column")}
                assert name == "pipeline/system/terminal.py" or not strays | (
                    {"TextColumn"} & {a.name for a in node.names}
                ), name
            if isinstance(node, ast.Call) and name_of(node.func) == "TextColumn":
                assert any(word.arg == "markup" and ast.unparse(word.value) == "False" for word in node.keywords)


def test_csv_files_and_weights_have_one_writer_each(root: Path) -> None:
    for path in sources(root):
        name = str(path.relative_to(root))
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        assert "csv.writer" not in calls or name == "pipeline/system/csv_files.py", f"{name}: cells may be formulas"
        # The histories of trainings hold numbers alone.
        assert "csv.DictWriter" not in calls or name in ("pipeline/training/journal.py", "pipeline/training/job.py"), (
            name
        )
        assert not any(call.endswith("save_file") for call in calls), f"{name}: safetensors makes its files private"
