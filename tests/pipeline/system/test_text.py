"""Names that hold anything: shown on one line and given back, harmless as a cell, a page's text and a model's name."""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from pipeline.commands.common import emit
from pipeline.report.page import Cell, Matrix, Section, Table, html, markdown
from pipeline.report.plots import as_file, curves, intervals
from pipeline.system.csv_files import Writer, guarded, read_rows, unguarded
from pipeline.system.text import code, original, printable, shortened, storable, visible
from pipeline.system.text import markdown as escaped
from pipeline.tracking.context import registered_name

#: What names were seen to hold, and what each would do where it is taken for more than a name.
HOSTILE = [
    "[id]", "[/run]", "[red]x[/red]", ":car:", "=1+1", "+1", "-x", "@sum", "\t=1", "\r=1", " =1", "'=1", "''=1", "'x",
    "a|b", "<b>x</b>", "<script>alert(1)</script>", "`q`", "``", "![i](http://x/i.png)", "[i](javascript:1)", "*a*",
    "_a_", "~~a~~", "$x$", "a$_{", "# h", "1. a", "- a", "---", "> a", "&lt;", "www.example.org", "http://example.org",
    "tab\there", "line\nend", "turn\r\n", "esc\x1b[31m\x1b]0;title\x07", "\u202egnp.4pm", "\x85\u2028\u2029", "{brace}",
    "%s %(x)s", r"\xff", r"a\b", "\\", "\\\\n", os.fsdecode(b"caf\xe9"), os.fsdecode(b"\\\xff\\"), "\ud800", "nul\0",
    "e\u0301 \u00e9 \u4e2d \U0001f600", "a;b,c\"d'", "", " ",
]  # fmt: skip


def test_a_name_is_shown_on_one_line_without_anything_hidden_and_given_back() -> None:
    rng = random.Random(0)
    parts = [*"\\xu0f8Ua1é ", "\x1b", "\n", "\udcff", "\udc80", "\u202e", "\U000e0041", "\x9b", "\ud800", r"\xff"]
    names = ["".join(rng.choices(parts, k=rng.randint(0, 9))) for _ in range(20_000)]
    for name in [*HOSTILE, *names]:
        shown = printable(name)
        assert original(shown) == name
        assert all(c.isprintable() or c in "\u200c\u200d" for c in shown if not c.isspace()), shown
        assert len(shown.splitlines()) <= 1
        assert shown.encode().decode() == shown
        assert printable(shown) == shown, "what is shown already is not escaped again"
    assert printable("C:\\new [1].mp4") == "C:\\new [1].mp4", "what hides nothing stays as it is"
    assert printable(os.fsdecode(b"caf\xe9.mp4")) == "caf\\xe9.mp4"
    assert (
        printable("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


def test_a_message_of_several_lines_keeps_them_and_steers_no_terminal() -> None:
    assert visible("one\n\ttwo \x1b[2J\r\u202e\udcff") == "one\n\ttwo \\x1b[2J\\x0d\\u202e\\xff"


def test_what_utf8_holds_is_stored_as_it_is_and_the_rest_readably() -> None:
    value = {"\udcff": ["line\nend", {"a": Path("b\udce9"), "n": 1.5}], "nul\0": None}
    stored = storable(value)
    assert stored == {"\\xff": ["line\nend", {"a": "b\\xe9", "n": 1.5}], "nul\\x00": None}
    assert json.dumps(stored, ensure_ascii=False).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_no_cell_is_a_formula_and_every_name_is_read_back(tmp_path: Path, end: str) -> None:
    text = io.StringIO()
    writer = Writer(text, lineterminator=end)
    writer.rows([name, -1.5, 7, f"x{name}"] for name in HOSTILE)
    path = tmp_path / "names.csv"
    path.write_bytes(text.getvalue().encode())
    rows = read_rows(path)
    assert rows == [[storable(name), "-1.5", "7", storable(f"x{name}")] for name in HOSTILE]
    for name in HOSTILE:
        cell = guarded(name)
        assert cell.lstrip(" ")[:1] not in [*"=+-@\t\r\n"] or not cell.strip(" ")
        assert unguarded(cell) == storable(name)
    assert guarded(-1.5) == -1.5, "a number is no formula"


def shown_by(page: str) -> tuple[str, list[str]]:
    """A Markdown page's text as a reader sees it, and the kinds of its inline and block elements."""
    texts: list[str] = []
    kinds: list[str] = []

    def walk(tokens: list[Any]) -> None:
        for token in tokens:
            kinds.append(token.type)
            if token.type in ("text", "code_inline"):
                texts.append(token.content)
            walk(token.children or [])
            if token.type == "inline":
                texts.append("\n")

    walk(MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"]).parse(page))
    return "".join(texts), kinds


def test_a_page_of_markdown_shows_every_name_as_it_is_and_makes_nothing_of_it() -> None:
    names = [name for name in HOSTILE if name.strip()]
    section = Section(names[0], names[1], [Table(["name", *names[:3]], [[n, n, n, n] for n in names], names[2])])
    section.matrices = [Matrix(names[3], names[:2], [(n, [Cell(1, 33), Cell(2, 67)]) for n in names[:2]])]
    page = markdown("# [title]", names[1], names, [section])
    text, kinds = shown_by(page)
    assert not {"image", "link_open", "code_inline", "html_inline", "html_block", "em_open", "strong_open", "s_open",
                "fence", "code_block", "blockquote_open", "ordered_list_open", "hr"} & set(kinds)  # fmt: skip
    assert kinds.count("tr_open") == 1 + len(names) + 3, "no name makes or ends a row"
    assert kinds.count("td_open") == 4 * len(names) + 6
    assert kinds.count("list_item_open") == len(names)
    lines = text.splitlines()
    for name in names:
        assert lines.count(printable(name).strip()) >= 4, name
    assert not re.search(r"(?<!\\)(www\.|://)", page), "GitHub makes links of bare addresses"
    assert escaped("state_change 12.3 -1.2") == "state_change 12.3 -1.2", "plain words stay readable"


def test_a_code_span_holds_any_name() -> None:
    for name in [*HOSTILE, " a ", " `", "` "]:
        if name.strip():
            text, kinds = shown_by(f"a {code(name)} z")
            assert kinds.count("code_inline") == 1
            assert text == f"a {printable(name)} z\n"


def test_a_page_of_html_shows_every_name_escaped_and_is_utf8() -> None:
    section = Section("s", "", [Table(["name"], [[name] for name in HOSTILE])])
    section.add_confusion("m", HOSTILE[:3], np.eye(3, dtype=np.int64))
    section.plots = [curves({"a": [(0, 1), (1, 2)]}, title="t", x="x", y="y")]
    page = html("[\x1b]", "\udcff", HOSTILE, [section])
    assert page.encode()
    assert "<script" not in page
    assert "<b>x" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2028\udc80-\udcff]", page)
    assert page.count("<svg ") == 1, "what is ours stays markup"


def test_a_plot_shows_dollars_and_names_that_begin_with_an_underscore() -> None:
    names = ["$x$", "a$_{", "_hidden", "<&>", "esc\x1b", "\udcff"]
    points = [(0.0, 1.0), (1.0, 2.0)]
    drawn = as_file(curves(dict.fromkeys(names, points), title="a$_{", x="$x$", y="_y"))
    rows = [{"name": name, "x": 1.0, "y": 2.0, "low": 1.0, "high": 3.0} for name in names]
    for svg in (drawn, as_file(intervals(rows, title="$", x="x", y="y"))):
        import xml.etree.ElementTree as ET

        texts = {element.text for element in ET.fromstring(svg.encode()).iter() if element.text}
        assert {printable(name) for name in names} <= texts


def test_a_long_name_is_cut_between_characters() -> None:
    assert shortened("a" * 300, 200) == "a" * 200
    for count in range(190, 203):
        name = "a" * count + "\u4e2d" * 10 + os.fsdecode(b"\xff")
        cut = shortened(name, 200)
        assert name.startswith(cut)
        assert 197 < len(os.fsencode(cut)) <= 200
        assert "\udce4" not in cut
    assert shortened("short", 200) == "short"


def test_a_registered_models_name_holds_nothing_that_the_registry_or_its_addresses_refuse() -> None:
    assert registered_name("k400.small", "motion") == "everest-k400.small-motion"
    names = {registered_name(recipe, "b") for recipe in HOSTILE}
    assert len(names) == len(set(HOSTILE)), "two recipes never share a model"
    for name in names:
        assert not set("/:@%'\"`") & set(name)
        assert name.encode().decode() == name


def test_json_says_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"loss": [math.nan, 1.0, (math.inf,)], "path": Path("a")}, as_json=True)

    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refused) == {"loss": [None, 1.0, [None]], "path": "a"}
