"""Draw docs/images/rooms.svg, the rooms of the source and what each imports: `python docs/rooms.py`.

A room is a folder of modules; a loose module of `pipeline/` is a room by itself. Every import counts, those in
functions and under TYPE_CHECKING too. An arrow that follows from others is left out.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
PACKAGES = ("models", "pipeline", "flows")
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 40, 18, 34, 16

Graph = dict[str, set[str]]


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file of every module."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, `from x import y` as both x and x.y."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_graph(root: Path = ROOT) -> Graph:
    """Module -> the modules of ours that it imports; a submodule stands for its package."""
    modules = sources(root)
    graph: Graph = {}
    for name, path in modules.items():
        named = {target for target in imports(path) if target in modules and target != name}
        packages = {target for target in named if any(other.startswith(f"{target}.") for other in named)}
        graph[name] = {target for target in named - packages if not name.startswith(f"{target}.")}
    return graph


def room_of(module: str) -> str:
    """The folder that a module lies in, below `pipeline.data` one deeper; a loose module of `pipeline` itself."""
    parts = module.split(".")
    if parts[0] != "pipeline" or len(parts) == 1:
        return parts[0]
    return ".".join(parts[1:3] if parts[1] == "data" else parts[1:2])


def room_graph(graph: Graph) -> Graph:
    """Room -> the rooms that it imports."""
    rooms: Graph = {}
    for module, targets in graph.items():
        rooms.setdefault(room_of(module), set()).update(room_of(target) for target in targets)
    for room, targets in rooms.items():
        targets.discard(room)
    return {room: targets for room, targets in rooms.items() if room not in ("pipeline", "data")}


def reached(graph: Graph, start: str) -> set[str]:
    """Everything that `start` imports, directly or not; itself where it lies in a circle."""
    seen: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph.get(name, ())
    return seen


def circles(graph: Graph) -> list[str]:
    """The names that import themselves by way of others."""
    return sorted(name for name in graph if name in reached(graph, name))


def levels(graph: Graph) -> dict[str, int]:
    """Height of each room: one above the highest that it imports."""
    height: dict[str, int] = {}

    def visit(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((visit(below) for below in graph.get(room, ())), default=-1)
        return height[room]

    for room in graph:
        visit(room)
    return height


def picture(root: Path = ROOT) -> str:
    """The SVG: rooms in rows, each above all that it imports."""
    graph = room_graph(module_graph(root))
    if tied := circles(graph):
        raise SystemExit(f"rooms import each other: {', '.join(tied)}")
    rows: dict[int, list[str]] = {}
    for room, level in sorted(levels(graph).items()):
        rows.setdefault(level, []).append(room)
    widest = max(len(row) for row in rows.values())
    full = widest * (WIDTH + GAP_X) - GAP_X
    place: dict[str, tuple[float, float]] = {}
    for level, row in rows.items():
        left = MARGIN + (full - (len(row) * (WIDTH + GAP_X) - GAP_X)) / 2
        for column, room in enumerate(row):
            place[room] = (left + column * (WIDTH + GAP_X), MARGIN + (max(rows) - level) * (HEIGHT + GAP_Y))
    size = Counter(
        room_of(name) for name, path in sources(root).items() if path.name != "__init__.py" or path.read_text()
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full + 2 * MARGIN:.0f} '
        f'{len(rows) * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for room in sorted(graph):
        for below in sorted(graph[room]):
            if not any(below in reached(graph, other) for other in graph[room] - {below}):
                (x, y), (u, v) = place[room], place[below]
                lines.append(
                    f'<path d="M{x + WIDTH / 2:.0f} {y + HEIGHT:.0f} C{x + WIDTH / 2:.0f} {y + HEIGHT + GAP_Y:.0f} '
                    f'{u + WIDTH / 2:.0f} {v - GAP_Y:.0f} {u + WIDTH / 2:.0f} {v:.0f}" fill="none" stroke="#9aa5b1"/>'
                )
    for room in sorted(graph):
        x, y = place[room]
        colour = {"models": "#dbeafe", "flows": "#fde68a"}.get(room, "#e2e8f0" if "data." in room else "#f1f5f9")
        middle = f'x="{x + WIDTH / 2:.0f}" text-anchor="middle"'
        lines += [
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}" '
            'stroke="#64748b"/>',
            f'<text {middle} y="{y + 17:.0f}" font-weight="bold">{escape(room)}</text>',
            f'<text {middle} y="{y + 32:.0f}" fill="#475569" font-size="10">'
            f"{size[room]} module{'s' * (size[room] > 1)}</text>",
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")
