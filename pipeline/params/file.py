"""Read a params file as plain YAML: one meaning for each value, and nothing that only looks like one.

DVC reads the same file by YAML 1.2, this project by YAML 1.1: what the two read differently (`010`, `1:30`, `yes`) is
refused, and so is what YAML would accept without a word: a key that stands twice, nesting and aliases without end.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError

#: [byte] the largest params file; the recipes take 6 thousand.
MAX_BYTES = 256 << 10
#: Levels of nesting; the recipes have 5.
MAX_DEPTH = 20
#: Values and keys after aliases are filled in; the recipes have 300.
MAX_VALUES = 20_000

_PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file"}
_MERGE = "tag:yaml.org,2002:merge"


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; nothing in it is shared between two places.

    Raises:
        InputError: no such file, not text, not YAML, or YAML that means something else than it seems to.
    """
    return parse_mapping(read_text(path), path)


def parse_mapping(text: str, path: Path) -> dict[str, Any]:
    """The mapping that the text of a YAML file holds; see :func:`read_mapping`."""
    try:
        _check_depth(path, text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _check_node(path, node)
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {_one_line(error)}. Cure: {_cure(error)}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} holds a value that cannot be read: {_one_line(error)}. Cure: mend it.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, expected a mapping. Cure: `everest recipe use demo`.")
    return dict(_unshared(value))


def read_text(path: Path) -> str:
    """The text of a YAML file; see :func:`read_mapping`."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path} is no regular file. Cure: `everest recipe use demo` writes one.")
        if about.st_size > MAX_BYTES:
            raise InputError(
                f"{path} has {about.st_size:,} bytes, expected at most {MAX_BYTES:,}: this is no params file. "
                "Cure: `everest recipe use demo` writes one."
            )
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} does not exist. Cure: run in the project's root, or `everest recipe use demo` to write it."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Cure: mend its rights.") from None
    for mark, kind in _MARKS.items():
        if content.startswith(mark):
            raise InputError(f"{path} is {kind}, expected text in UTF-8. Cure: save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not text in UTF-8: byte {content[error.start]:#04x} in line {line}. Cure: save it as UTF-8."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path} holds a NUL character in line {line}: it is no text. Cure: save it as UTF-8.")
    return text


def _check_depth(path: Path, text: str) -> None:
    """On the stream of events: what builds values of them would call itself once for each level."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise InputError(
                    f"{path}, line {line}: nested deeper than {MAX_DEPTH} levels. "
                    "Cure: the recipes' layout (`everest recipe show demo`)."
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_node(path: Path, root: yaml.Node) -> None:
    """Refuse doubled keys, values that two YAML versions read differently, and aliases that grow without end."""
    for count, (node, depth) in enumerate(_nodes(root)):
        where = f"{path}, line {node.start_mark.line + 1}"
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise InputError(
                f"{where}: more than {MAX_VALUES:,} values or {MAX_DEPTH} levels once its aliases (*name) are filled "
                "in. Cure: write the values out, as `everest recipe show demo` does."
            )
        if isinstance(node, yaml.MappingNode):
            _check_keys(path, node)
        elif isinstance(node, yaml.ScalarNode):
            _check_scalar(where, node)


def _nodes(root: yaml.Node) -> Iterator[tuple[yaml.Node, int]]:
    """Every node with its depth, one behind an alias as often as it is named."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in node.value for child in pair]


def _check_keys(path: Path, node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{path}, line {key.start_mark.line + 1}: a key must be a word. Cure: write `key: value`.")
        line = key.start_mark.line + 1
        if key.value in lines and key.tag != _MERGE:
            raise InputError(
                f"{path}, line {line}: the key {key.value[:100]!r} stands twice (first in line {lines[key.value]}), "
                "and only one could count. Cure: remove one of the two."
            )
        lines[key.value] = line


def _check_scalar(where: str, node: yaml.ScalarNode) -> None:
    text, kind = node.value, node.tag.rpartition(":")[2]
    if kind == "int" and not _PLAIN_INTEGER.fullmatch(text):
        raise InputError(f"{where}: {text!r} is no plain number: DVC and we would read two. Cure: in decimal digits.")
    if kind == "bool" and text.lower() not in ("true", "false"):
        raise InputError(f"{where}: {text!r} may mean yes or no, or the word. Cure: true or false, or in quotes.")


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(entry) for key, entry in value.items()}
    return [_unshared(entry) for entry in value] if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _cure(error: yaml.YAMLError) -> str:
    return "blanks in place of tabs." if r"'\t'" in str(error) else "mend that line."
