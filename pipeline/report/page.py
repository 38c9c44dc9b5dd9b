"""Sections of tables, plots and pictures, as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from pipeline.report.plots import as_file, heat, in_page
from pipeline.system.files import write_text
from pipeline.system.text import markdown as escaped
from pipeline.system.text import printable, storable

#: Confusion matrices up to this many classes are tables with numbers, larger ones pictures.
READABLE_CLASSES = 16

Row = TypeVar("Row")
#: Heading of each column and the text of its cell in a row.
Columns = Mapping[str, Callable[[Row], str]]


@dataclass
class Table:
    """`text`: columns whose content reads from the left; `tall`: scrolls inside the page, where it has many rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text: frozenset[int] = frozenset({0})
    tall: bool = False

    @classmethod
    def of(cls, rows: Sequence[Row], columns: Columns[Row], caption: str = "", text: Sequence[int] = (0,)) -> Table:
        """A line for each row, a cell for each column."""
        return cls(list(columns), [[cell(row) for cell in columns.values()] for row in rows], caption, frozenset(text))


class Cell(NamedTuple):
    """Videos of one true class that were given one class, and their share of the true class."""

    videos: int
    percent: int


@dataclass
class Matrix:
    """A confusion matrix; a row holds the name of a true class and its cells."""

    title: str
    names: list[str]
    rows: list[tuple[str, list[Cell]]]


class Picture(NamedTuple):
    """`data`: an address that holds the bytes themselves."""

    data: str
    caption: str


class Card(NamedTuple):
    """A video in a few lines, under its picture where there is one (an address that holds the bytes themselves)."""

    title: str
    lines: Sequence[str]
    picture: str = ""


class Step(NamedTuple):
    """One place of a slider: its name and what holds there, as (what, value)."""

    name: str
    facts: Sequence[tuple[str, str]]


class Slider(NamedTuple):
    """A slider over steps, at `start` when the page opens; without scripts all steps stand below one another."""

    label: str
    steps: Sequence[Step]
    start: int


class Link(NamedTuple):
    """A page in the same folder."""

    text: str
    file: str


@dataclass
class Section:
    """A part of a page, under a heading."""

    title: str
    note: str = ""
    tables: list[Table] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    slider: Slider | None = None

    @property
    def shown(self) -> bool:
        """Whether there is more in it than its words."""
        parts = (self.tables, self.plots, self.matrices, self.pictures, self.cards, self.links, self.slider)
        return any(parts)

    def add_confusion(self, title: str, names: list[str], counts: np.ndarray) -> None:
        """A confusion matrix: rows the true class."""
        if len(names) > READABLE_CLASSES:
            self.plots.append(heat(counts, title=title))
            return
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        cells = [
            [Cell(int(count), round(100 * float(part))) for count, part in zip(count_C, share_C, strict=True)]
            for count_C, share_C in zip(counts, share, strict=True)
        ]
        self.matrices.append(Matrix(title, names, list(zip(names, cells, strict=True))))

    def add_picture(self, path: Path, caption: str) -> None:
        """A PNG, JPEG, GIF or SVG file, its bytes inside the page."""
        self.pictures.append(Picture(data_address(path), caption))


def data_address(path: Path) -> str:
    """An address that holds a picture's bytes themselves."""
    kind = {".svg": "svg+xml", ".jpg": "jpeg"}.get(path.suffix, path.suffix.removeprefix("."))
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write_pages(
    folder: Path,
    title: str,
    subtitle: str,
    sentences: Sequence[str],
    summary: Mapping[str, object],
    sections: Sequence[Section],
    plots: Mapping[str, str],
) -> list[Path]:
    """Write report.html, report.md, summary.json and `<name>.svg` of each plot; empty sections are left out."""
    shown = [section for section in sections if section.shown]
    texts = {
        "report.html": html(title, subtitle, sentences, shown),
        "report.md": markdown(title, subtitle, sentences, shown),
        "summary.json": json.dumps(storable(summary), indent=1) + "\n",
        **{f"{name}.svg": as_file(svg) for name, svg in plots.items()},
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def html(title: str, subtitle: str, sentences: Sequence[str], sections: Sequence[Section]) -> str:
    """The page: nothing fetched, no script but a slider's, opens from disk, prints."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # what is marked safe is no str
    )
    drawn = [replace(section, plots=[in_page(plot) for plot in section.plots]) for section in sections]
    page = environment.get_template("page.html.j2")
    return page.render(title=title, subtitle=subtitle, sentences=sentences, sections=drawn)


def markdown(title: str, subtitle: str, sentences: Sequence[str], sections: Sequence[Section]) -> str:
    """The same words and tables; plots and pictures are in the HTML page and in files beside it."""
    lines = [f"# {escaped(title)}", "", escaped(subtitle), "", *(f"- {escaped(line)}" for line in sentences), ""]
    for section in sections:
        if not section.tables and not section.matrices and not section.links:
            continue
        lines += [f"## {escaped(section.title)}", ""]
        if section.note:
            lines += [escaped(section.note), ""]
        lines += [f"- [{escaped(link.text)}]({link.file})" for link in section.links]
        lines += [""] if section.links else []
        for table in section.tables:
            if table.caption:
                lines += [escaped(table.caption), ""]
            lines += markdown_table(table.head, table.rows, table.text)
        for matrix in section.matrices:
            rows = [[name, *(str(cell.videos) for cell in cells)] for name, cells in matrix.rows]
            lines += [f"### {escaped(matrix.title)}", ""]
            lines += markdown_table(["true \\ predicted", *matrix.names], rows, frozenset({0}))
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], text: frozenset[int]) -> list[str]:
    """The lines of a table; `text`: columns that read from the left."""
    rule = ["---" if index in text else "---:" for index in range(len(head))]
    body = [[escaped(cell) for cell in row] for row in rows]
    return [*("| " + " | ".join(row) + " |" for row in ([escaped(cell) for cell in head], rule, *body)), ""]


def number(value: float | None, digits: int = 1, percent: bool = False) -> str:
    """A number for reading; a dash where there is none."""
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f} %" if percent else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """`45 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds is None:
        return "–"
    rounded = round(seconds)
    if rounded < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if rounded < 6000:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"
