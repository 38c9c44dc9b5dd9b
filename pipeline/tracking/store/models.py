"""The registry of models: versions with their files, tags and aliases."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipeline.errors import InputError
from pipeline.tracking.store.mlmodel import write_description
from pipeline.tracking.store.records import RegisteredVersion, StoreError, registered_version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")


class Call(Protocol):
    """Makes a call to the server; what goes wrong comes out as StoreError."""

    def __call__(self, function: Callable[[], T]) -> T: ...


class Models:
    """Registered models, over a store's connection.

    Raises:
        StoreError: from every method, when the server cannot be reached or refuses.
    """

    def __init__(self, uri: str, client: MlflowClient, call: Call) -> None:
        self._uri = uri
        self._client = client
        self._call = call

    def register(self, run: str, key: str, path: Path, name: str, tags: Mapping[str, str], aliases: list[str]) -> str:
        """Store a model folder and make it the next version of `name`; its version number.

        The version of an interrupted earlier call with the same `key` is found again. The alias `best` goes
        to the version with the highest tag `score`, a validation score, and stays where none has one; other aliases
        go to this one.
        """
        versions = self.versions(name)
        earlier = [v for v in versions if v["tags"].get("everest.key") == key]
        version = earlier[0]["version"] if earlier else self._new_version(run, key, path, name, tags, not versions)
        for alias in aliases:
            chosen = self._best(name) if alias == "best" else version
            if chosen is not None:
                self._call(functools.partial(self._client.set_registered_model_alias, name, alias, chosen))
        return version

    def _best(self, name: str) -> str | None:
        """The version with the highest validation score; None where none has one."""
        scores = {v["version"]: float(v["tags"]["score"]) for v in self.versions(name) if "score" in v["tags"]}
        # Of equal ones the earliest stays: an alias should not move without a reason.
        return max(scores, key=lambda version: (scores[version], -int(version)), default=None)

    def _new_version(self, run: str, key: str, path: Path, name: str, tags: Mapping[str, str], create: bool) -> str:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        if create:
            self._create_name(name)
        experiment = self._call(lambda: self._client.get_run(run)).info.experiment_id
        model = self._call(
            lambda: self._client.create_logged_model(
                experiment, name=name.replace(".", "~2e"), source_run_id=run, model_type="everest", tags=dict(tags)
            )
        )
        for file in sorted(p for p in path.iterdir() if p.is_file()):
            self._call(functools.partial(self._client.log_model_artifact, model.model_id, str(file)))
        with tempfile.TemporaryDirectory() as folder:
            description = write_description(Path(folder), run, model.model_id)
            self._call(lambda: self._client.log_model_artifact(model.model_id, str(description)))
        self._call(lambda: self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY))
        self._call(lambda: self._client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)]))
        made = self._call(
            lambda: self._client.create_model_version(
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
            self._call(lambda: self._client.create_registered_model(name))
        except StoreError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of a registered model."""
        versions = self._call(lambda: self._client.search_model_versions(f"name = '{name}'"))
        return [registered_version(version) for version in versions]

    def of_run(self, run: str) -> list[RegisteredVersion]:
        """All model versions that a run registered, oldest first."""
        versions = self._call(lambda: self._client.search_model_versions(f"run_id = '{run}'"))
        return sorted((registered_version(version) for version in versions), key=lambda v: int(v["version"]))

    def with_tag(self, tag: str, value: str) -> list[RegisteredVersion]:
        """Versions of any registered model that carry a tag."""
        versions = self._call(lambda: self._client.search_model_versions(f"tags.`{tag}` = '{value}'"))
        return [registered_version(version) for version in versions]

    def version(self, name: str, which: str) -> RegisteredVersion:
        """One version by its number or alias.

        Raises:
            InputError: there is no such model or version.
        """
        try:
            if which.isdigit():
                return registered_version(self._call(lambda: self._client.get_model_version(name, which)))
            return registered_version(self._call(lambda: self._client.get_model_version_by_alias(name, which)))
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
        aliases = self._call(lambda: self._client.get_registered_model(name)).aliases
        return ", ".join([*sorted(numbers, key=int), *(f"@{alias} ({v})" for alias, v in sorted(aliases.items()))])

    def _model_names(self) -> list[str]:
        return [model.name for model in self._call(lambda: self._client.search_registered_models(max_results=20))]

    def download(self, version: RegisteredVersion, target: Path) -> Path:
        """Fetch a version's files into `target`."""
        from mlflow.artifacts import download_artifacts

        target.mkdir(parents=True, exist_ok=True)
        source = str(version["source"])
        return Path(
            self._call(lambda: download_artifacts(artifact_uri=source, dst_path=str(target), tracking_uri=self._uri))
        )
