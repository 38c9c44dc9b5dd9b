"""Notes which parameters this Python process reads, if EVEREST_READS names a folder: see test_declared.py.

The folder of this file on PYTHONPATH makes every Python process import it, ranks and workers too. A line of a log is
`read <key>` for an attribute that was read and `dump <key>` for a key of a group that was dumped as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Log:
    """The keys that this process has read so far, each written once."""

    def __init__(self, folder: Path) -> None:
        self.file, self.seen = folder / f"{os.getpid()}.txt", set[str]()

    def note(self, line: str) -> None:
        if line not in self.seen:
            self.seen.add(line)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class Recorder:
    """Wraps the parameter classes; what checks read, of the file or of the values together, is not noted."""

    def __init__(self, log: Log) -> None:
        from pipeline.params import Group, Params, flatten, load

        self.log, self.group, self.flatten, self.quiet = log, Group, flatten, False
        #: By identity: the object (kept, so that no other takes its place) and the dotted key that it stands for.
        self.known: dict[int, tuple[Any, str]] = {}
        self.original = {name: getattr(Group, name) for name in ("__getattribute__", "model_dump", "model_copy")}
        validate, faults = Params.model_validate, load.faults
        load.faults = lambda params: self.quietly(faults, params)
        Group.__getattribute__ = lambda s, name: self.get(s, name)
        Group.model_dump = lambda s, *a, **k: self.dump(s, *a, **k)
        Group.model_copy = lambda s, *a, **k: self.copy(s, *a, **k)
        Params.model_validate = lambda *a, **k: self.keep(validate(*a, **k), "")

    def keep(self, value: Any, path: str) -> Any:
        self.known[id(value)] = (value, path)
        return value

    def get(self, owner: Any, name: str) -> Any:
        value = self.original["__getattribute__"](owner, name)
        if self.quiet or name.startswith("_") or id(owner) not in self.known or name not in type(owner).model_fields:
            return value
        path = f"{self.known[id(owner)][1]}.{name}".lstrip(".")
        if isinstance(value, self.group):
            self.keep(value, path)
        elif isinstance(value, dict):
            for key, item in value.items():
                self.keep(item, f"{path}.{key}")
        else:
            self.log.note(f"read {path}")
        return value

    def dump(self, owner: Any, *arguments: Any, **options: Any) -> Any:
        path = self.known.get(id(owner), (None, ""))[1]
        chosen = {name: options[name] for name in ("include", "exclude") if name in options}
        keys = self.flatten(self.quietly(self.original["model_dump"], owner, **chosen))
        for key in keys if path else ():  # all of the parameters are dumped only to be handed on
            self.log.note(f"dump {path}.{key}")
        return self.quietly(self.original["model_dump"], owner, *arguments, **options)

    def quietly(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        before, self.quiet = self.quiet, True
        try:
            return call(*arguments, **options)
        finally:
            self.quiet = before

    def copy(self, owner: Any, *arguments: Any, **options: Any) -> Any:
        result = self.original["model_copy"](owner, *arguments, **options)
        return self.keep(result, self.known[id(owner)][1]) if id(owner) in self.known else result


if os.environ.get("EVEREST_READS"):
    Recorder(Log(Path(os.environ["EVEREST_READS"])))
