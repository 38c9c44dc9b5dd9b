"""The tracking server: only this folder imports mlflow.

Every call may take seconds (a database migration, a slow server), so nothing here runs in a stage's own
thread. Failures come out as :class:`StoreError`, which says whether trying again can help.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import InputError
from pipeline.system.files import publish_file
from pipeline.system.locks import locked
from pipeline.tracking.store.models import Models
from pipeline.tracking.store.records import RegisteredVersion, StoreError, TrackedRun, tracked_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["RegisteredVersion", "Store", "StoreError", "TrackedRun"]

# Our own uploader tries again, patiently; the client's default is to block for minutes on a dead server.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A first use tells of every step of its migration.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

DEFAULT_URI = "sqlite:///mlflow.db"
#: The server's own limits for one `log_batch`.
BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS = 1000, 100, 100
MAX_PARAM, MAX_TAG = 6000, 8000
PERMANENT = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")

#: Makes MLflow's page open on training runs, not on traces of language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}

T = TypeVar("T")


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file `mlflow.db` in the project's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


class Store:
    """What this project needs of MLflow, over one connection.

    Raises:
        StoreError: from every method, when the server cannot be reached or refuses.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        with _one_migration_at_a_time(self.uri):
            from mlflow.tracking import MlflowClient

            logging.getLogger("alembic").setLevel(logging.WARNING)
            # A retry that fails comes out as our own error; one that helps needs no words.
            logging.getLogger("urllib3").setLevel(logging.ERROR)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)
            file = sqlite_file(self.uri)
            if file is not None and not file.exists():
                self._call(lambda: _make_whole(file))
            self.client: MlflowClient = self._call(lambda: MlflowClient(self.uri, self.uri))
            self._call(lambda: self.client.search_experiments(max_results=1))
        self.models = Models(self.uri, self.client, self._call)
        self._experiments: dict[str, str] = {}

    @classmethod
    def existing(cls) -> Store:
        """A store that is only asked: where there is none yet, none is made.

        Raises:
            InputError: the SQLite file does not exist.
        """
        file = sqlite_file(tracking_uri())
        if file is not None and not file.exists():
            raise InputError(
                f"there is no tracking store {file.absolute()}. Cure: run in the project's root after a first "
                "`make demo`, or set MLFLOW_TRACKING_URI."
            )
        return cls()

    def experiment(self, name: str) -> str:
        """The id of the experiment, created where it is missing."""
        if name not in self._experiments:
            with _one_migration_at_a_time(self.uri):
                known = self._call(lambda: self.client.get_experiment_by_name(name))
                if known is None:
                    where = _artifact_location(self.uri)
                    identity = self._call(lambda: self.client.create_experiment(name, where, KIND))
                else:
                    identity = known.experiment_id
            self._experiments[name] = identity
        return self._experiments[name]

    def experiment_tags(self, experiment: str, values: Mapping[str, str]) -> None:
        identity = self.experiment(experiment)
        for name, value in values.items():
            self._call(functools.partial(self.client.set_experiment_tag, identity, name, value))

    def create_run(self, experiment: str, key: str, name: str, started: int, tags: Mapping[str, str]) -> str:
        """A run's id; the run that an interrupted earlier call made under the same `key` is found again."""
        identity = self.experiment(experiment)
        query = f"tags.`everest.key` = '{key}'"
        earlier = self._call(lambda: self.client.search_runs([identity], query, max_results=1))
        if earlier:
            return str(earlier[0].info.run_id)
        short = {name: str(value)[:MAX_TAG] for name, value in {**tags, "everest.key": key}.items()}
        run = self._call(lambda: self.client.create_run(identity, start_time=started, tags=short, run_name=name))
        return str(run.info.run_id)

    def status(self, run: str, status: str, ended: int | None) -> None:
        if status == "RUNNING":
            self._call(lambda: self.client.update_run(run, status="RUNNING"))
        else:
            self._call(lambda: self.client.set_terminated(run, status=status, end_time=ended))

    def metrics(self, run: str, points: list[tuple[str, float, int, int]]) -> None:
        """Points (name, value, milliseconds, step). Sending one twice stores it once: all four are its key."""
        from mlflow.entities import Metric

        for batch in _batches([Metric(*point) for point in points], BATCH_METRICS):
            self._call(functools.partial(self.client.log_batch, run, metrics=batch))

    def params(self, run: str, values: Mapping[str, str]) -> None:
        """Parameters that the run has not got yet: the server refuses to change one."""
        from mlflow.entities import Param

        known = self._call(lambda: self.client.get_run(run)).data.params
        new = [Param(name, value[:MAX_PARAM]) for name, value in values.items() if name not in known]
        for batch in _batches(new, BATCH_PARAMS):
            self._call(functools.partial(self.client.log_batch, run, params=batch))

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for batch in _batches([RunTag(name, value[:MAX_TAG]) for name, value in values.items()], BATCH_TAGS):
            self._call(functools.partial(self.client.log_batch, run, tags=batch))

    def artifact(self, run: str, path: Path, folder: str) -> None:
        """Store a file, or a folder's content, under `folder`; an equal name is replaced."""
        if path.is_dir():
            self._call(lambda: self.client.log_artifacts(run, str(path), folder or None))
        else:
            self._call(lambda: self.client.log_artifact(run, str(path), folder or None))

    def inputs(self, run: str, datasets: Mapping[str, str]) -> None:
        """Datasets a run read: name -> content hash."""
        from mlflow.entities import Dataset, DatasetInput

        entries = [
            DatasetInput(
                Dataset(name=name, digest=digest[:36], source_type="dvc", source=json.dumps({"path": name})),
                tags=[],
            )
            for name, digest in datasets.items()
        ]
        if entries:
            self._call(lambda: self.client.log_inputs(run, entries))

    def get_run(self, run: str) -> TrackedRun:
        """A run as plain values."""
        return tracked_run(self._call(lambda: self.client.get_run(run)))

    def has_run(self, run: str) -> bool:
        """Whether there is such a run, a deleted one too."""
        try:
            self.get_run(run)
        except StoreError as error:
            if str(error).startswith("RESOURCE_DOES_NOT_EXIST"):
                return False
            raise
        return True

    def run(self, run: str) -> TrackedRun:
        """As :meth:`get_run`, of a run that a user names.

        Raises:
            InputError: there is no such run.
        """
        try:
            return self.get_run(run)
        except StoreError as error:
            if not error.permanent:
                raise
            raise InputError(
                f"{run!r} is no run of {self.uri}. Cure: copy the id from the page of the run (`make ui`)."
            ) from None

    def search(self, query: str = "", experiment: str | None = None, limit: int = 1000) -> list[TrackedRun]:
        """Runs that fit MLflow's filter `query`, newest first; of all experiments or of the one with this id."""
        every = [] if experiment else self._call(lambda: self.client.search_experiments())
        ids = [experiment] if experiment else [each.experiment_id for each in every]
        return [tracked_run(run) for run in self._call(lambda: self.client.search_runs(ids, query, max_results=limit))]

    def history(self, run: str, name: str) -> list[tuple[int, float]]:
        """One metric's points (step, value), in order of the steps."""
        points = self._call(lambda: self.client.get_metric_history(run, name))
        return sorted((int(p.step), float(p.value)) for p in points)

    def artifacts(self, run: str, folder: str = "") -> list[str]:
        """Paths of a run's artifacts, through all folders."""
        paths: list[str] = []
        for item in self._call(lambda: self.client.list_artifacts(run, folder or None)):
            paths += self.artifacts(run, item.path) if item.is_dir else [item.path]
        return paths

    def download(self, run: str, path: str, target: Path) -> Path:
        """Fetch one artifact (file or folder) of a run below `target`."""
        target.mkdir(parents=True, exist_ok=True)
        return Path(self._call(lambda: self.client.download_artifacts(run, path, str(target))))

    def _call(self, function: Callable[[], T]) -> T:
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return function()
        except UnicodeError as error:  # no store takes it, today or later
            raise StoreError(f"{type(error).__name__}: {_first_line(error)}", permanent=True) from error
        except MlflowException as error:
            code = str(error.error_code)
            if code in PERMANENT:
                raise StoreError(f"{code}: {_first_line(error)}", permanent=True) from error
            raise StoreError(self._unreachable(f"{code}: {_first_line(error)}")) from error
        except (RequestException, SQLAlchemyError, OSError) as error:
            raise StoreError(self._unreachable(f"{type(error).__name__}: {_first_line(error)}")) from error

    def _unreachable(self, reason: str) -> str:
        from pipeline.system.redact import redact

        return (
            f"the tracking store {redact(self.uri)} does not answer ({reason}). "
            "Cure: start its server (`make ui` on this machine), or check MLFLOW_TRACKING_URI."
        )


def _batches(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    yield from (entries[start : start + size] for start in range(0, len(entries), size))


def _first_line(error: Exception) -> str:
    from pipeline.system.redact import redact

    line = str(error).strip().split("\n", 1)[0]
    # What urllib3 wraps around the cause says the same address three times.
    cause = line.rpartition("(Caused by ")[2]
    return redact(cause.removesuffix("))") if cause != line else line)[:300]


def _artifact_location(uri: str) -> str | None:
    """Beside the database for SQLite, whatever the current folder is; a server's own choice otherwise."""
    file = sqlite_file(uri)
    return None if file is None else (file.resolve().parent / "mlruns").as_uri()


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite address, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _make_whole(file: Path) -> None:
    """Make a SQLite store under another name first: MLflow's tables take seconds, and half of them can't be mended."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.new")  # one maker at a time: what lies there was left by a killed one
    unfinished.unlink(missing_ok=True)
    made = SqlAlchemyStore(f"sqlite:///{unfinished}", str(file.resolve().parent / "mlruns"))
    made.engine.dispose()
    publish_file(unfinished, file)


@contextmanager
def _one_migration_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that create the same SQLite tables at once collide; a server does this by itself."""
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    locks = file.resolve().parent / ".work"
    if file.is_dir():  # MLflow would try for minutes
        raise StoreError(
            f"the tracking store {uri} cannot be made: {file} is a folder. Cure: name a file in MLFLOW_TRACKING_URI."
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(locks / "mlflow.lock", uri, wait=True))
        except OSError as error:
            raise StoreError(
                f"the tracking store {uri} cannot be made: {locks.parent}: {error.strerror}. "
                "Cure: name a file in a folder that can be written to in MLFLOW_TRACKING_URI."
            ) from error
        yield
