"""params.yaml as text: a recipe's lines with other values, and behind each its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import yaml

from pipeline.errors import InputError
from pipeline.setup.values import Value
from pipeline.system.text import printable

_LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?P<value>(?: [^#]*?)?)(?: +# (?P<reason>.*))?")
#: [character] Where comments begin, and where a line ends.
COLUMN, WIDTH = 32, 120
BENCHMARKS = "benchmarks"


def params_text(
    recipe: str, name: str, values: Mapping[str, Value], benchmark: Mapping[str, Value], header: Sequence[str]
) -> str:
    """The recipe's text with other values.

    Args:
        recipe: text of a recipe; its own benchmarks are left out.
        name: of the one benchmark.
        values: dotted key -> value; keys that the recipe does not have are a fault.
        benchmark: dotted key below `benchmarks.NAME.data` -> value.
        header: lines of comment at the top.

    Raises:
        InputError: the recipe lacks one of the keys.
    """
    left = dict(values)
    lines = [row for line in header for row in _wrapped(printable(line), "# ")]
    for dotted, line in _lines(recipe):
        top = dotted.split(".")[0] if dotted else None
        if dotted == BENCHMARKS:
            lines += [line, *_benchmark(name, benchmark)]
        elif dotted is not None and dotted in left:
            lines.append(_written(line, left.pop(dotted)))
        elif top != BENCHMARKS and not (dotted is None and line.startswith("#")):
            lines.append(_with_reason(line))
    if left:
        raise InputError(f"the recipe has no {', '.join(sorted(left))}. Cure: mend recipes/, or this version.")
    return "\n".join(lines).rstrip() + "\n"


def flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _lines(recipe: str) -> Iterator[tuple[str | None, str]]:
    """(dotted key, or None where a line has none; line) of each line."""
    above: list[tuple[int, str]] = []
    for line in recipe.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            yield None, line
            continue
        indent = len(match["indent"])
        above = [(depth, key) for depth, key in above if depth < indent] + [(indent, match["key"])]
        yield ".".join(key for _, key in above), line


def _written(line: str, value: Value) -> str:
    match = _LINE.fullmatch(line)
    assert match is not None
    return commented(f"{match['indent']}{match['key']}: {flow(value.value)}", value.reason)


def _with_reason(line: str) -> str:
    """A recipe's own line: a value without a reason has the recipe's."""
    match = _LINE.fullmatch(line)
    if match is None or not match["value"].strip() or match["reason"]:
        return line
    return commented(line, "as in the recipe ucf101")


def _benchmark(name: str, values: Mapping[str, Value]) -> list[str]:
    lines = [f"  {flow(name)}:", "    data:"]
    lines += [commented(f"      {key}: {flow(value.value)}", value.reason) for key, value in values.items()]
    return [*lines, "    finetune: {}", "    evaluate: {}"]


def commented(line: str, reason: str) -> str:
    """A line with its reason behind it, or above it where both are too long for one line."""
    if not reason:
        return line
    reason = printable(reason)
    if len(beside := f"{line:<{COLUMN}}# {reason}") <= WIDTH and len(line) < COLUMN:
        return beside
    if len(beside := f"{line}  # {reason}") <= WIDTH:
        return beside
    indent = " " * (len(line) - len(line.lstrip()))
    return "\n".join([*_wrapped(reason, f"{indent}# "), line])


def _wrapped(text: str, start: str) -> list[str]:
    """Lines of comment of at most WIDTH characters, but for words that are longer."""
    rows: list[str] = []
    for word in text.split():
        if rows and len(rows[-1]) + 1 + len(word) <= WIDTH:
            rows[-1] += f" {word}"
        else:
            rows.append(f"{start}{word}")
    return rows
