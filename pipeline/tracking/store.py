"""The tracking server: the only module that imports mlflow.

Every call may take seconds (a database migration, a slow server), so nothing here runs in a stage's own
thread. Failures come out as :class:`StoreError`, which says whether trying again can help.
"""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from pipeline.errors import EverestError, InputError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

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


class TrackedRun(TypedDict):
    """A run on the server: times in ms, `inputs` content hashes by the name of the data."""

    id: str
    name: str
    status: str
    experiment: str
    start: int
    end: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    inputs: dict[str, str]


class RegisteredVersion(TypedDict):
    """A version of a registered model; `source` is where its files lie."""

    name: str
    version: str
    run: str | None
    source: str | None
    tags: dict[str, str]
    aliases: list[str]
    model_id: str | None


class StoreError(EverestError):
    """A call to the tracking server failed; `permanent` where the same call can never succeed."""

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


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
            # A retry that fails comes out as our own error; one that helps is nobody's business.
            logging.getLogger("urllib3").setLevel(logging.ERROR)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)
            file = sqlite_file(self.uri)
            if file is not None and not file.exists():
                self._call(lambda: _make_whole(file))
            self.client: MlflowClient = self._call(lambda: MlflowClient(self.uri, self.uri))
            self._call(lambda: self.client.search_experiments(max_results=1))
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

    # -- runs -----------------------------------------------------------------------------------------------

    def experiment(self, name: str) -> str:
        """The id of the experiment, created where it is missing."""
        if name not in self._experiments:
            with _one_migration_at_a_time(self.uri):
                found = self._call(lambda: self.client.get_experiment_by_name(name))
                if found is None:
                    where = _artifact_location(self.uri)
                    identity = self._call(lambda: self.client.create_experiment(name, where, KIND))
                else:
                    identity = found.experiment_id
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
        found = self._call(lambda: self.client.search_runs([identity], query, max_results=1))
        if found:
            return str(found[0].info.run_id)
        every = {**tags, "everest.key": key}
        short = {k: str(v)[:MAX_TAG] for k, v in every.items()}
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

        for start in range(0, len(points), BATCH_METRICS):
            batch = [Metric(*point) for point in points[start : start + BATCH_METRICS]]
            self._call(lambda batch=batch: self.client.log_batch(run, metrics=batch))  # type: ignore[misc]

    def params(self, run: str, values: Mapping[str, str]) -> None:
        """Parameters that the run has not got yet: the server refuses to change one."""
        from mlflow.entities import Param

        known = self._call(lambda: self.client.get_run(run)).data.params
        new = [Param(name, value[:MAX_PARAM]) for name, value in values.items() if name not in known]
        for start in range(0, len(new), BATCH_PARAMS):
            batch = new[start : start + BATCH_PARAMS]
            self._call(lambda batch=batch: self.client.log_batch(run, params=batch))  # type: ignore[misc]

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value[:MAX_TAG]) for name, value in values.items()]
        for start in range(0, len(tags), BATCH_TAGS):
            batch = tags[start : start + BATCH_TAGS]
            self._call(lambda batch=batch: self.client.log_batch(run, tags=batch))  # type: ignore[misc]

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
        return _tracked_run(self._call(lambda: self.client.get_run(run)))

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

    def search(self, experiment: str | None = None, query: str = "", limit: int = 1000) -> list[TrackedRun]:
        """Runs of one experiment (or of all), newest first, that fit MLflow's filter `query`."""
        if experiment is None:
            ids = [e.experiment_id for e in self._call(lambda: self.client.search_experiments())]
        else:
            ids = [self.experiment(experiment)]
        return [_tracked_run(run) for run in self._call(lambda: self.client.search_runs(ids, query, max_results=limit))]

    def search_in(self, experiment: str, query: str) -> list[TrackedRun]:
        """The newest run of an experiment, given by its id, that fits `query`; none or one."""
        return [
            _tracked_run(run) for run in self._call(lambda: self.client.search_runs([experiment], query, max_results=1))
        ]

    def history(self, run: str, name: str) -> list[tuple[int, float]]:
        """One metric's points (step, value), in order of the steps."""
        points = self._call(lambda: self.client.get_metric_history(run, name))
        return sorted((int(p.step), float(p.value)) for p in points)

    def artifacts(self, run: str, folder: str = "") -> list[str]:
        """Paths of a run's artifacts, through all folders."""
        found: list[str] = []
        for item in self._call(lambda: self.client.list_artifacts(run, folder or None)):
            found += self.artifacts(run, item.path) if item.is_dir else [item.path]
        return found

    def download(self, run: str, path: str, target: Path) -> Path:
        """Fetch one artifact (file or folder) of a run below `target`."""
        target.mkdir(parents=True, exist_ok=True)
        return Path(self._call(lambda: self.client.download_artifacts(run, path, str(target))))

    # -- models ---------------------------------------------------------------------------------------------

    def register(self, run: str, key: str, path: Path, name: str, tags: Mapping[str, str], aliases: list[str]) -> str:
        """Store a model folder and make it the next version of `name`; its version number.

        The version of an interrupted earlier call with the same `key` is found again. The alias `best` goes
        to the version with the highest tag `score`, a validation score, and stays where none has one; other aliases
        go to this one.
        """
        versions = self.versions(name)
        mine = [v for v in versions if v["tags"].get("everest.key") == key]
        version = mine[0]["version"] if mine else self._new_version(run, key, path, name, tags, create=not versions)
        for alias in aliases:
            if alias == "best":
                score = {v["version"]: float(v["tags"]["score"]) for v in self.versions(name) if "score" in v["tags"]}
                if not score:
                    continue
                # Of equal ones the earliest stays: an alias should not move without a reason.
                top = max(score, key=lambda v: (score[v], -int(v)))
                self._call(lambda top=top: self.client.set_registered_model_alias(name, "best", top))  # type: ignore[misc]
            else:
                self._call(lambda alias=alias: self.client.set_registered_model_alias(name, alias, version))  # type: ignore[misc]
        return version

    def _new_version(self, run: str, key: str, path: Path, name: str, tags: Mapping[str, str], create: bool) -> str:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        if create:
            self._create_name(name)
        experiment = self._call(lambda: self.client.get_run(run)).info.experiment_id
        model = self._call(
            lambda: self.client.create_logged_model(
                experiment, name=name.replace(".", "~2e"), source_run_id=run, model_type="everest", tags=dict(tags)
            )
        )
        for file in sorted(p for p in path.iterdir() if p.is_file()):
            self._call(lambda file=file: self.client.log_model_artifact(model.model_id, str(file)))  # type: ignore[misc]
        self._call(lambda: self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY))
        self._call(lambda: self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)]))
        made = self._call(
            lambda: self.client.create_model_version(
                name,
                model.artifact_location,
                run_id=run,
                tags={**tags, "everest.key": key},
                model_id=model.model_id,
                await_creation_for=0,
            )
        )
        return str(made.version)

    def _create_name(self, name: str) -> None:
        try:
            self._call(lambda: self.client.create_registered_model(name))
        except StoreError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of a registered model."""
        found = self._call(lambda: self.client.search_model_versions(f"name = '{name}'"))
        return [_registered(version) for version in found]

    def versions_of_run(self, run: str) -> list[RegisteredVersion]:
        """All model versions that a run registered, oldest first."""
        found = self._call(lambda: self.client.search_model_versions(f"run_id = '{run}'"))
        return sorted((_registered(version) for version in found), key=lambda v: int(v["version"]))

    def versions_with(self, tag: str, value: str) -> list[RegisteredVersion]:
        """Versions of any registered model that carry a tag."""
        found = self._call(lambda: self.client.search_model_versions(f"tags.`{tag}` = '{value}'"))
        return [_registered(version) for version in found]

    def version(self, name: str, which: str) -> RegisteredVersion:
        """One version by its number or alias.

        Raises:
            InputError: there is no such model or version.
        """
        try:
            if which.isdigit():
                return _registered(self._call(lambda: self.client.get_model_version(name, which)))
            return _registered(self._call(lambda: self.client.get_model_version_by_alias(name, which)))
        except StoreError as error:
            if not error.permanent:
                raise
            raise InputError(
                f"model {name!r} has no version or alias {which!r}; there are: {self._known(name)}. "
                "Cure: name one of them."
            ) from None

    def _known(self, name: str) -> str:
        """A model's versions and aliases, for a message."""
        numbers = [v["version"] for v in self.versions(name)]
        if not numbers:
            return f"none, the models are {', '.join(self._model_names()) or 'none'}"
        aliases = self._call(lambda: self.client.get_registered_model(name)).aliases
        return ", ".join([*sorted(numbers, key=int), *(f"@{alias} ({v})" for alias, v in sorted(aliases.items()))])

    def _model_names(self) -> list[str]:
        return [model.name for model in self._call(lambda: self.client.search_registered_models(max_results=20))]

    def download_model(self, version: RegisteredVersion, target: Path) -> Path:
        """Fetch a version's files into `target`."""
        from mlflow.artifacts import download_artifacts

        target.mkdir(parents=True, exist_ok=True)
        source = str(version["source"])
        return Path(
            self._call(lambda: download_artifacts(artifact_uri=source, dst_path=str(target), tracking_uri=self.uri))
        )

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
    unfinished.rename(file)


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
    try:
        locks.mkdir(parents=True, exist_ok=True)
        handle = (locks / "mlflow.lock").open("w")
    except OSError as error:
        raise StoreError(
            f"the tracking store {uri} cannot be made: {locks.parent}: {error.strerror}. "
            "Cure: name a file in a folder that can be written to in MLFLOW_TRACKING_URI."
        ) from error
    with handle as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tracked_run(run: Run) -> TrackedRun:
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "experiment": run.info.experiment_id,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": dict(run.data.tags),
        "inputs": {i.dataset.name: i.dataset.digest for i in (run.inputs.dataset_inputs if run.inputs else [])},
    }


def _registered(version: ModelVersion) -> RegisteredVersion:
    return {
        "name": version.name,
        "version": str(version.version),
        "run": version.run_id,
        "source": version.source,
        "tags": dict(version.tags),
        "aliases": list(version.aliases or []),
        "model_id": getattr(version, "model_id", None),
    }
