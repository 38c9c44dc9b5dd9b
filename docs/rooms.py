"""Draw docs/images/rooms.svg, the rooms of the source and what each imports: `python docs/rooms.py`.

A room is a folder of modules; a loose module of `pipeline/` is a room by itself. Every import counts, those in
functions and under TYPE_CHECKING too. An arrow that follows from others is left out, and so are those to the rooms that
any other may import; the rest run down between the rooms, never behind one.
"""

from __future__ import annotations

import ast
import math
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
PACKAGES = ("models", "pipeline", "flows")
#: What every room may import: a row of its own at the bottom, without arrows.
FOUNDATION = ("errors", "layout", "params", "strategies", "system")
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 124, 38, 16, 46, 16
LANE = 14  # width of an arrow that passes a row
COLOURS = {"models": "#bfdbfe", "flows": "#fde68a", "data": "#d1fae5", "foundation": "#f1f5f9", "other": "#ffffff"}
INKS = ("#1d4ed8", "#b91c1c", "#047857", "#7c3aed", "#b45309", "#0e7490", "#be185d", "#4d7c0f")

Graph = dict[str, set[str]]
#: A room in its row, or the place where the arrow `(from, to, row)` passes one.
Node = str | tuple[str, str, int]


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file of every module."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports anywhere, `from x import y` as both x and x.y."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
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


def depths(graph: Graph) -> dict[str, int]:
    """Row of each room: one below the lowest that imports it."""
    importers: Graph = {room: {other for other in graph if room in graph[other]} for room in graph}
    row: dict[str, int] = {}

    def visit(room: str) -> int:
        if room not in row:
            row[room] = 1 + max((visit(above) for above in importers[room]), default=-1)
        return row[room]

    for room in sorted(graph):
        visit(room)
    return row


def arrows(graph: Graph) -> list[tuple[str, str]]:
    """The imports that do not follow from others."""
    return [
        (room, below)
        for room in sorted(graph)
        for below in sorted(graph[room])
        if not any(below in reached(graph, other) for other in graph[room] - {below})
    ]


def routes(edges: list[tuple[str, str]], row: dict[str, int]) -> dict[tuple[str, str], list[Node]]:
    """Each arrow as its rooms and the places where it passes the rows between them."""
    return {(a, b): [a, *((a, b, r) for r in range(row[a] + 1, row[b])), b] for a, b in edges}


def arranged(rows: list[list[Node]], links: dict[Node, list[Node]]) -> dict[Node, float]:
    """The middle of each place in its row: near the places that it is linked with, without overlap."""
    x: dict[Node, float] = {}
    for nodes in rows:
        x.update({node: float(column * WIDTH) for column, node in enumerate(nodes)})
    for sweep in range(40):
        for nodes in rows if sweep % 2 else rows[::-1]:
            wished = {n: math.fsum(x[m] for m in links[n]) / len(links[n]) if links[n] else x[n] for n in nodes}
            nodes.sort(key=lambda n: (round(wished[n], 3), str(n)))
            right = float("-inf")
            for node in nodes:  # as wished, but clear of the left neighbour ...
                x[node] = max(wished[node], right + breadth(node) / 2)
                right = x[node] + breadth(node) / 2
            shift = math.fsum(x[n] - wished[n] for n in nodes) / len(nodes)
            for node in nodes:  # ... and the row as a whole where it wished to be
                x[node] -= shift
    return x


def breadth(node: Node) -> int:
    """What a place takes of its row, with its gap."""
    return WIDTH + GAP_X if isinstance(node, str) else LANE


def picture(root: Path = ROOT) -> str:
    """The SVG: rooms in rows, each below all that import it."""
    whole = room_graph(module_graph(root))
    if tied := circles(whole):
        raise SystemExit(f"rooms import each other: {', '.join(tied)}")
    graph = {room: targets - set(FOUNDATION) for room, targets in whole.items() if room not in FOUNDATION}
    row = depths(graph)
    paths = routes(arrows(graph), row)
    rows: list[list[Node]] = [[] for _ in range(max(row.values()) + 1)]
    links: dict[Node, list[Node]] = {room: [] for room in graph}
    for room in sorted(graph):
        rows[row[room]].append(room)
    for path in paths.values():
        for upper, lower in pairwise(path):
            links.setdefault(upper, []).append(lower)
            links.setdefault(lower, []).append(upper)
        for place, level in zip(path[1:-1], range(row[str(path[0])] + 1, len(rows)), strict=False):
            rows[level].append(place)
    x = arranged(rows, links)
    x.update({room: (n - (len(FOUNDATION) - 1) / 2) * (WIDTH + GAP_X) for n, room in enumerate(FOUNDATION)})
    middle = (min(x[r] for r in graph) + max(x[r] for r in graph)) / 2
    x.update({room: x[room] + middle for room in FOUNDATION})
    left = min(x.values()) - WIDTH / 2 - MARGIN
    x = {node: value - left for node, value in x.items()}
    y = {room: MARGIN + row[room] * (HEIGHT + GAP_Y) for room in graph}
    bottom = MARGIN + len(rows) * (HEIGHT + GAP_Y)
    y.update(dict.fromkeys(FOUNDATION, bottom + 24))
    full = (max(x.values()) + WIDTH / 2 + MARGIN, bottom + 24 + HEIGHT + MARGIN)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full[0]:.0f} {full[1]:.0f}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    inks = {room: INKS[n % len(INKS)] for n, room in enumerate(sorted(graph, key=lambda r: (row[r], x[r])))}
    lines += [arrow(path, x, y, inks[start]) for (start, _), path in paths.items()]
    lines.append(
        f'<text x="{full[0] / 2:.0f}" y="{bottom + 12:.0f}" text-anchor="middle" fill="#475569">'
        "any room may import these:</text>"
    )
    size = Counter(
        room_of(name) for name, path in sources(root).items() if path.name != "__init__.py" or path.read_text()
    )
    for room in sorted(whole):
        lines += box(room, size[room], x[room], y[room])
    return "\n".join([*lines, "</svg>", ""])


def arrow(path: list[Node], x: dict[Node, float], y: dict[str, int], ink: str) -> str:
    """One arrow, straight past the rows between its rooms."""
    start, end = str(path[0]), str(path[-1])
    at, top = x[start], y[start] + HEIGHT
    drawn = f"M{at:.0f} {top}"
    for place in path[1:]:
        goal = top + GAP_Y
        tip = goal - 5 if place == end else goal
        drawn += f"C{at:.0f} {top + GAP_Y * 0.6:.0f} {x[place]:.0f} {goal - GAP_Y * 0.6:.0f} {x[place]:.0f} {tip}"
        at, top = x[place], goal + HEIGHT
        if place != end:
            drawn += f"V{top}"
    head = f"M{at - 4:.0f} {y[end] - 7}L{at:.0f} {y[end]}L{at + 4:.0f} {y[end] - 7}Z"
    return f'<path d="{drawn}" fill="none" stroke="{ink}" opacity="0.65"/><path d="{head}" fill="{ink}"/>'


def box(room: str, modules: int, x: float, y: float) -> list[str]:
    """A room with its name and size."""
    kind = "foundation" if room in FOUNDATION else "data" if room.startswith("data.") else room
    middle = f'x="{x:.0f}" text-anchor="middle"'
    return [
        f'<rect x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" '
        f'fill="{COLOURS.get(kind, COLOURS["other"])}" stroke="#64748b"/>',
        f'<text {middle} y="{y + 16:.0f}" font-weight="bold">{escape(room)}</text>',
        f'<text {middle} y="{y + 30:.0f}" fill="#475569" font-size="10">{modules} module{"s" * (modules > 1)}</text>',
    ]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")
