"""`everest ops backup` and `restore`: what cannot be computed again.

    <folder>/everest-20260102-030405/
        mlflow.db | mlflow.dump       runs, metrics, registered models
        login.db                      users and roles, where `everest ops serve mlflow` keeps them beside mlflow.db
        prefect.db | prefect.dump     flow runs, deployments, automations
        files/                        params.yaml, recipes, dvc.lock, reports, unsent records, MLflow's artifacts
        manifest.json                 SHA-256 of each file, versions; written last: a folder without it is no backup

Videos and DVC's cache are not in it: `dvc push` copies those. Nor are artifacts that MLflow's server keeps elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import EverestError, InputError
from pipeline.layout import WORK
from pipeline.operations import databases as copies
from pipeline.operations.addresses import Databases
from pipeline.system.files import atomic_folder, atomic_path, sha256_of, write_json
from pipeline.system.redact import redact

MANIFEST = "manifest.json"
#: Relative to the project's root; those that are absent are left out. MLflow's artifacts hold the registered models.
PARAMETERS = (
    "params.yaml",
    "versions.yaml",
    "dvc.yaml",
    "dvc.lock",
    "prefect.yaml",
    "compare",
    "recipes",
    ".dvc/config",
)
RESULTS = ("reports", "mlruns", "mlartifacts")
#: Copied before the databases: what is sent meanwhile is in both, and sending it again changes nothing.
UNSENT = str(WORK / "runs")
#: Tells what of a run was sent.
REMOTE = "remote.json"
#: Whose schemas a backup depends on.
PACKAGES = ("mlflow", "prefect")


@dataclass(frozen=True)
class Manifest:
    """What a backup is of: `files` has the SHA-256 of each by its path, `root` the project's folder."""

    made: float
    root: str
    versions: dict[str, str]
    files: dict[str, str]


def backup(root: Path, to: Path, of: Databases, artifacts: bool = True) -> Path:
    """Make a backup below the folder `to`; servers and trainings may go on meanwhile.

    Raises:
        EverestError: a database cannot be read, or the disk is full; nothing is left then.
    """
    root = root.absolute()
    final = to.absolute() / time.strftime("everest-%Y%m%d-%H%M%S")
    if final.exists():
        raise EverestError(f"{final} is there already. Cure: again in a second.")
    final.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(final) as building:
        if artifacts:
            _copy(root, UNSENT, building)
        for name, address in _addresses(of).items():
            if name == "mlflow" or copies.is_postgres(address) or copies.sqlite_path(address).exists():
                copies.copy(address, building, name)
        for name in [*PARAMETERS, *(RESULTS if artifacts else ())]:
            _copy(root, name, building)
        hashes = {str(path.relative_to(building)): sha256_of(path) for path in _files(building)}
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        write_json(building / MANIFEST, asdict(Manifest(time.time(), str(root), versions, hashes)))
    return final


def databases_of(made: Path, of: Databases) -> dict[str, str]:
    """Where the databases were that a backup holds, by the names of their copies."""
    return {name: redact(address) for name, address in _addresses(of).items() if list(made.glob(f"{name}.d*"))}


def _addresses(of: Databases) -> dict[str, str]:
    """The databases by the names of their copies; users and roles are in a file beside MLflow's, if that is one."""
    found = {"mlflow": of.mlflow, "prefect": of.prefect}
    if not copies.is_postgres(of.mlflow):
        found["login"] = f"sqlite:///{copies.sqlite_path(of.mlflow).with_name('login.db')}"
    return found


def left_out(root: Path, of: Databases, artifacts: bool = True) -> list[str]:
    """What a backup of this project does not hold, in words: Prefect's database, MLflow's artifacts with its models.

    Raises:
        EverestError: PostgreSQL does not answer.
    """
    missing = []
    if not copies.is_postgres(of.prefect) and not (file := copies.sqlite_path(of.prefect)).exists():
        missing.append(f"Prefect's database is not in it: there is no {file}")
    if not artifacts:
        return missing
    held = [(root / name).resolve() for name in RESULTS]
    elsewhere: dict[str, None] = {}
    for place in copies.artifact_places(of.mlflow):  # one for each experiment
        parts = urlsplit(place)
        if parts.scheme == "mlflow-artifacts":  # its server knows where: here, if it is that of `everest ui`
            if not (root / "mlartifacts" / unquote(parts.path).lstrip("/")).is_dir():
                elsewhere["mlflow-artifacts:"] = None
        elif parts.scheme not in ("", "file"):
            elsewhere[f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"] = None
        elif not any((path := (root / unquote(parts.path)).resolve()).is_relative_to(folder) for folder in held):
            elsewhere[str(path.parent)] = None
    what = "registered models and other artifacts"
    return missing + [f"{what} at {place} are not in it: copy them where they lie" for place in elsewhere]


def restore(folder: Path, root: Path, to: Databases, force: bool = False) -> list[str]:
    """Put a backup back in its place; returns what was done, line by line.

    Args:
        force: replace what is there, but never parameters, which are put beside.

    Raises:
        InputError: no whole backup, or one of newer programs or of another kind of database, or something would be
            replaced without `force`.
        EverestError: a server still uses a database.
    """
    manifest = check(folder)
    root = root.absolute()
    copied = {Path(name).stem: folder / name for name in sorted(manifest.files) if "/" not in name}
    addresses = {name: address for name, address in _addresses(to).items() if name in copied}
    for name, address in addresses.items():
        copies.refuse_other_kind(copied[name], address)
    names = [name.removeprefix("files/") for name in manifest.files if name.startswith("files/")]
    equal = {name for name in names if _equal(folder / "files" / name, root / name)}
    # Records were only added since then; what of them was sent is as the backup has it.
    grown = {name for name in names if Path(name).is_relative_to(UNSENT) and Path(name).name != REMOTE}
    equal |= {name for name in grown if (root / name).exists()}
    other = {name for name in names if (root / name).exists()} - equal
    # Those belong to a commit: over another one's they would not fit its code.
    aside = {name for name in other if any(Path(name).is_relative_to(kept) for kept in PARAMETERS)}
    present = [name for name, address in addresses.items() if copies.exists(address)] + sorted(other - aside)
    if present and not force:
        raise InputError(
            f"{', '.join(present[:8])}{' ...' if len(present) > 8 else ''}: there already, and another. "
            "Cure: --force replaces it (make a backup first)."
        )
    for address in addresses.values():
        if copies.is_postgres(address):
            copies.refuse_sessions(address)
        else:
            copies.refuse_in_use(copies.sqlite_path(address))
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.made))
    lines = []
    beside = root / WORK / "restored" / folder.name
    for sent in (root / UNSENT).glob(f"*/{REMOTE}"):
        if str(sent.relative_to(root)) not in names:
            sent.unlink(missing_ok=True)  # its run is younger than this database: it is sent again
    # Before the databases: what cannot be written ends it while nothing is half old, half new.
    for name in sorted(set(names) - equal):
        _put_file(folder / "files" / name, (beside if name in aside else root) / name)
    for name, address in addresses.items():
        copies.put_back(copied[name], address)
        lines.append(f"{name}'s database is as it was {made}: {redact(address)}")
    lines.append(f"{len(names) - len(aside)} files are back in {root}")
    if aside:
        lines.append(f"{len(aside)} files of parameters differ from this commit's, and are in {beside}")
    if Path(manifest.root) != root:
        link = f"ln -s {root} {manifest.root}"
        lines.append(f"it was made in {manifest.root}, where MLflow's runs look for their artifacts: {link}")
    older = [name for name in PACKAGES if manifest.versions[name] != importlib.metadata.version(name)]
    if "mlflow" in older:
        lines.append("made with an earlier MLflow: mlflow db upgrade <its address>, before anything else uses it")
    if "prefect" in older:
        lines.append("made with an earlier Prefect: its server brings the database up to date when it starts")
    return lines


def _put_file(copy: Path, target: Path) -> None:
    """Put a file in its place, in that of one that is write-protected too, as published reports are."""
    try:
        with atomic_path(target) as unfinished:
            shutil.copyfile(copy, unfinished)
    except OSError as error:
        raise EverestError(
            f"{target}: {error.strerror}; the databases are as they were. Cure: make it writable, and restore again."
        ) from error


def check(folder: Path) -> Manifest:
    """The manifest of a whole backup that the installed programs can read.

    Raises:
        InputError: names what is missing, changed, or too new.
    """
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"{folder} is no backup: it has no readable {MANIFEST}. Cure: name one that is whole."
        ) from None
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or path.is_symlink() or not path.is_file():
            raise InputError(f"{folder} lacks {name}. Cure: restore another backup.")
        if sha256_of(path) != expected:
            raise InputError(f"{folder}: the bytes of {name} have changed. Cure: restore another backup.")
    for name in PACKAGES:
        then, now = manifest.versions[name], importlib.metadata.version(name)
        if _release(then) > _release(now):
            raise InputError(
                f"{folder} was made with {name} {then}; {now} is installed, which cannot read it. "
                "Cure: check out the project's commit of that time, make install."
            )
    return manifest


def _copy(root: Path, name: str, building: Path) -> None:
    """Copy a file or folder of the project, where it is there; what vanishes meanwhile is not missed."""
    source, target = root / name, building / "files" / name
    if source.is_dir():
        try:
            shutil.copytree(source, target, ignore_dangling_symlinks=True)
        except shutil.Error as error:  # a run that has been sent is removed, a file is renamed when it is whole
            if any(Path(of).exists() for of, *_ in error.args[0]):
                raise
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _equal(one: Path, other: Path) -> bool:
    return other.is_file() and sha256_of(one) == sha256_of(other)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
