"""The parameters of one stage process: read once at its start, compared with the files at its end.

DVC notes the values that params.yaml has when a stage has ended. If one that the stage depends on has changed by then,
the stage fails before it publishes anything, so that nothing is noted; its finished work stays in `.work`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ruamel.yaml.error import YAMLError

from pipeline.errors import EverestError, InputError
from pipeline.params import declared, records
from pipeline.params.file import read_text
from pipeline.params.keys import replace
from pipeline.params.load import params_from_text

PARAMS = Path("params.yaml")


class ParamsChangedError(EverestError):
    """A parameter of the stage was edited while it ran."""


class Frozen:
    """What one stage process computes with.

    Attributes:
        text: params.yaml as it was read.
        params: its content, checked, with the overrides of the command line.
        values: the values of all keys that the stage depends on.
    """

    def __init__(self, stage: str, key: str | None, overrides: Mapping[str, object] | None = None) -> None:
        self.stage, self.key, self.overrides = stage, key, dict(overrides or {})
        self.text = read_text(PARAMS)
        self.params = params_from_text(self.text, PARAMS, self.overrides)
        if key is not None:
            self.params.benchmark(key)
        self.content = self._parse(self.text)
        self.values = declared.values(stage, key, self.content)
        self._undo: list[Callable[[], None]] = []

    def on_change(self, undo: Callable[[], None]) -> None:
        """What takes a published result back into `.work`, should the last comparison fail."""
        self._undo.append(undo)

    def check(self) -> None:
        """Compare with what the files say now.

        Raises:
            ParamsChangedError: names every changed key with both values.
        """
        try:
            now = declared.values(self.stage, self.key, self._parse(read_text(PARAMS)))
        except (InputError, YAMLError, AttributeError, TypeError) as error:
            raise self._changed([str(PARAMS)], f"it can no longer be read ({error})") from None
        present = declared.read_versions()
        now |= {key: present.get(key.removeprefix("versions.")) for key in now if key.startswith("versions.")}
        changes = list(records.differences(self.values, now))
        if changes:
            files = dict.fromkeys(self._file_of(key) for key, _, _ in changes)
            lines = [f"{key} was {then!r} and is {new!r} now" for key, then, new in changes]
            raise self._changed(files, "; ".join(lines))

    def conclude(self) -> None:
        """Leave a record of the values beside the outputs, after one more comparison.

        Raises:
            ParamsChangedError: see :meth:`check`; what was published is taken back.
        """
        record = records.write_record(self.stage, self.key, self.values)
        try:
            self.check()
        except ParamsChangedError:
            record.unlink()
            for undo in reversed(self._undo):
                undo()
            raise

    def check_sources(self) -> None:
        """Refuse outputs of other stages that were computed with other values than params.yaml has now.

        Raises:
            InputError: names the stage, each key with both values, and the cure.
        """
        stage = declared.declared(self.stage, self.key)
        check_made(stage.address, declared.sources(stage, self.content), self.content)

    def _parse(self, text: str) -> dict[str, object]:
        content = declared.parse(text)
        for dotted, value in self.overrides.items():
            replace(content, dotted, value)
        return content

    def _file_of(self, key: str) -> str:
        """Where a value that has changed stands."""
        if key.startswith("versions."):
            return declared.VERSIONS
        return str(self.values.get(key.removesuffix(".sha256"))) if key.endswith(".sha256") else str(PARAMS)

    def _changed(self, files: Iterable[str], what: str) -> ParamsChangedError:
        return ParamsChangedError(
            f"{' and '.join(files)} changed while {declared.address(self.stage, self.key)} ran: {what}. Nothing was "
            "recorded; finished work is kept in .work. Cure: put the old values back and start again, which continues "
            "from there, or start again as it is now, which computes with the new ones."
        )


def check_made(reader: str, sources: Iterable[declared.Stage], content: Mapping[str, object]) -> None:
    """Refuse outputs in this folder that stages computed with other values than a params file's content has.

    Raises:
        InputError: see :meth:`Frozen.check_sources`.
    """
    for source in sources:
        record = records.read_record(source.name, source.key)
        if record is None:  # made outside of the chain
            continue
        now = declared.values(source.name, source.key, content)
        lines = [f"{key} = {then!r}, now {new!r}" for key, then, new in records.differences(record, now)]
        if lines:
            raise InputError(
                f"{reader} reads {source.outs[0]}, which {source.address} computed with {'; '.join(lines)}. "
                f"Cure: `dvc repro {source.address}`; if DVC holds it to be up to date, `dvc repro --force "
                f"--single-item {source.address}`."
            )


_process: Frozen | None = None


@contextlib.contextmanager
def frozen(stage: str, key: str | None, overrides: Mapping[str, object] | None = None) -> Iterator[Frozen]:
    """Freeze the parameters for this process; the body runs the stage.

    Raises:
        InputError: params.yaml is wrong.
    """
    global _process
    _process = Frozen(stage, key, overrides)
    try:
        yield _process
    finally:
        _process = None


def check_unchanged() -> None:
    """Before a result is put in its place: see :meth:`Frozen.check`; nothing outside of a stage process."""
    if _process is not None:
        _process.check()


def on_change(undo: Callable[[], None]) -> None:
    """See :meth:`Frozen.on_change`; nothing outside of a stage process."""
    if _process is not None:
        _process.on_change(undo)


def params_text() -> str | None:
    """params.yaml as this stage process read it; outside of one as it is now, None where there is none."""
    if _process is not None:
        return _process.text
    return PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else None


def params_content() -> dict[str, object]:
    """:func:`params_text`, parsed; {} where there is none."""
    text = params_text()
    content = declared.parse(text) if text else None
    return content if isinstance(content, dict) else {}
