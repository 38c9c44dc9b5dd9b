"""Names as text: how a name of a file, class or recipe is shown on one line, stored, and written as Markdown.

A name may hold anything: bytes that are not UTF-8 (Python keeps them as surrogates), escapes that steer a terminal,
line ends, marks that turn the direction of reading, markup of the place where it is written. Where it is shown
(terminal, logs, pages, pictures) it goes through :func:`printable`, once; where a machine reads it (JSON, Parquet, the
tracking store) through :func:`storable`; in Markdown through :func:`markdown` or :func:`code`.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import overload

#: Joiners and signs of Arabic, Syriac and Indic text: "format" characters that belong to the words they stand in.
_IN_WORDS = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
#: Controls, format characters, line and paragraph separators, surrogates.
_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
#: A backslash that would be read as the beginning of an escape: before one, or before what is going to be one.
_AMBIGUOUS = re.compile(r"x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|\\")
_MARKDOWN = re.compile(r"[\\`*<>\[\]|~$@]|(?<!\w)_|_(?!\w)|(?<=\w):(?=//)|(?<=\bwww)\.|&(?=#?\w+;)")
#: What makes a list, heading, rule or underlined heading at the start of a line.
_MARKDOWN_START = re.compile(r"(?:[-+#=]|\d+(?=[.)]))(?=\s|$|[-=#]+\s|[-=#]+$|[.)](?:\s|$))")


class Shown(str):
    """What :func:`printable` made: shown as it is."""

    __slots__ = ()


def printable(name: object) -> str:
    r"""A name on one line, as it is but for what cannot be seen.

    `\xff` stands for a byte that is not UTF-8 or a control, `\u202e` for a mark. :func:`original` gives the name back.
    """
    if isinstance(name, Shown):
        return name
    text = str(name)
    if text.isprintable() and "\\" not in text:
        return text
    shown = []
    for place, character in enumerate(text):
        if character == "\\":
            begins = _AMBIGUOUS.match(text, place + 1) or any(map(_is_hidden, text[place + 1 : place + 2]))
            shown.append("\\\\" if begins else "\\")
        else:
            shown.append(_escaped(character) if _is_hidden(character) else character)
    return Shown("".join(shown))


def original(shown: str) -> str:
    """The name that :func:`printable` shows so."""

    def character(match: re.Match[str]) -> str:
        byte, unit, point = match.groups()
        if byte:
            return chr(int(byte, 16) + (0xDC00 if int(byte, 16) > 0x7F else 0))
        return chr(int(unit or point, 16)) if unit or point else "\\"

    return _ESCAPE.sub(character, shown)


def visible(text: str) -> str:
    """Text of several lines, in which a name may stand: as :func:`printable`, line by line, tabs left alone."""
    hidden = any(_is_hidden(character) for character in text if character not in "\n\t")
    return "".join(c if c in "\n\t" or not _is_hidden(c) else _escaped(c) for c in text) if hidden else text


@overload
def storable(value: str | PurePath) -> str: ...
@overload
def storable(value: Mapping[str, object]) -> dict[str, object]: ...
@overload
def storable(value: object) -> object: ...
def storable(value: object) -> object:
    """A value for JSON, Parquet or a database, with strings that these can hold.

    Strings stay as they are, or become :func:`printable` where UTF-8 (or, for NUL, some databases) cannot hold them.
    """
    if isinstance(value, str | PurePath):
        text = os.fspath(value)
        return text if _is_utf8(text) and "\0" not in text else printable(text)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def json_document(value: object, indent: int | None = None) -> str:
    """A JSON document that any reader takes: strings by :func:`storable`, null for NaN and infinities."""
    return json.dumps(_finite(storable(value)), indent=indent, default=str, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(text: object) -> str:
    """Text that a Markdown page shows as it is, on one line: no markup, link, picture, cell or HTML of its own."""
    escaped = _MARKDOWN.sub(lambda match: f"\\{match.group()}", printable(text))
    start = _MARKDOWN_START.match(escaped)
    if not start:
        return escaped
    at = start.end() if start.group().isdigit() else 0
    return f"{escaped[:at]}\\{escaped[at:]}"


def code(text: object) -> str:
    """A name as a code span of Markdown, whatever backticks it holds."""
    shown = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    blank = " " if len(fence) > 1 or shown[:1] == shown[-1:] == " " else ""
    return f"{fence}{blank}{shown}{blank}{fence}"


def counted(count: int, noun: str, many: str = "") -> str:
    """`1 video`, `2 videos`; `many` is the plural of a noun that has another one."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def shortened(name: str, most_bytes: int) -> str:
    """The beginning of a name for a file, of so many bytes at most; no character is cut in two."""
    raw = os.fsencode(name)
    if len(raw) <= most_bytes:
        return name
    cut = most_bytes
    while cut and raw[cut] & 0xC0 == 0x80:
        cut -= 1
    return os.fsdecode(raw[:cut])


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _IN_WORDS


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
