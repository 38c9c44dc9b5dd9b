"""A params file means one thing, or is refused in a line that names the place and the cure, at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params.file import read_mapping

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: 2\na: 3\n", ["line 3: the key 'a' stands twice (first in line 1)", "remove one"]),
        (b"b:\n  c: 1\n  'c': 1\n", ["line 3: the key 'c' stands twice"]),
        (b"[" * 3000 + b"]" * 3000, ["nested deeper than 20 levels"]),
        (b"".join(b" " * level + b"a:\n" for level in range(600)), ["line 21: nested deeper"]),
        (BOMB.encode(), ["aliases", "write the values out"]),
        (b"a: &a [*a]", ["aliases"]),
        (b"a: 010", ["'010' is no plain number", "decimal"]),
        (b"a: 1:30", ["'1:30' is no plain number"]),
        (b"a: yes", ["'yes' may mean yes or no, or the word"]),
        (b"a:\n\tb: 1", ["line 2", "blanks in place of tabs"]),
        ("a: 1".encode("utf-16"), ["is UTF-16", "save it as UTF-8"]),
        (b"ok: 1\na: caf\xe9", ["not text in UTF-8: byte 0xe9 in line 2"]),
        (b"ok: 1\na: \0", ["NUL character in line 2"]),
        (b"\x1f\x8b\x08\x00", ["is a gzip file"]),
        (b"#" * 10**6, ["1,000,000 bytes, expected at most 262,144"]),
        (b"a: " + b"9" * 5000, ["cannot be read", "digits"]),
        (b"a: 1\n---\na: 2", ["not valid YAML", "single document"]),
        (b"? [1]\n: 2", ["a key must be a word"]),
        (b"- 1", ["holds list, expected a mapping"]),
    ],
)
def test_what_is_no_plain_mapping_is_refused_with_its_place_and_cure(
    tmp_path: Path, content: bytes, words: list[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_mapping(path)
    assert time.monotonic() - began < 5
    for word in [*words, "Cure: "]:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_device_a_pipe_and_a_folder_are_no_params_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            read_mapping(path)


def test_a_mark_of_utf_8_merged_keys_and_aliases_are_read_and_share_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("\ufeffx: &x {a: [1], b: 2}\ny: {<<: *x, b: 3}\nz: *x\n".encode())
    result = read_mapping(path)
    assert result == {"x": {"a": [1], "b": 2}, "y": {"a": [1], "b": 3}, "z": {"a": [1], "b": 2}}
    result["x"]["a"].append(2)
    assert result["z"]["a"] == result["y"]["a"] == [1]
