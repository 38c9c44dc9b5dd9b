"""`make install`: which Pythons are admitted, how one is found, what is said, and that the lock has wheels."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline import doctor

#: Every minor version that is admitted.
ADMITTED = ("3.11", "3.12", "3.13", "3.14")
#: Published as source alone (pure Python, below dvc's hydra), whatever the version of Python.
SOURCE_ONLY = ("antlr4-python3-runtime",)


def test_pyproject_script_doctor_and_readme_admit_the_same_versions(root: Path) -> None:
    first, last = ADMITTED[0], ADMITTED[-1]
    requires = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == f">={first},<3.{int(last.split('.')[1]) + 1}"
    assert f'admitted="{" ".join(ADMITTED)}"' in (root / "scripts/install.sh").read_text()
    assert tuple(f"{major}.{minor}" for major, minor in doctor.PYTHONS) == ADMITTED
    assert f"Python {first} to {last}" in (root / "README.md").read_text()
    assert f"--python-version {first}" in (root / "Makefile").read_text(), "the lock is made from the oldest on"


@pytest.mark.slow
@pytest.mark.parametrize("version", ADMITTED)
def test_every_locked_package_has_a_wheel_for_each_admitted_version(root: Path, tmp_path: Path, version: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--python", sys.executable,
            "--target", str(tmp_path / "nothing"), "--python-version", version, "--python-platform",
            "x86_64-manylinux_2_28", "--only-binary", ":all:", *(w for n in SOURCE_ONLY for w in ("--no-binary", n)),
            "--require-hashes", "-r", str(root / "requirements.lock"),
        ], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if re.search(r"error sending request|Failed to fetch|network connectivity", done.stderr):
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch==" in done.stderr


class Place:
    """A folder with a lock file, and a PATH of stand-ins that note how they are called."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder, self.tools = folder, folder / "tools"
        self.tools.mkdir(parents=True)
        (folder / "requirements.lock").write_text("torch==2.15.0\n")
        shutil.copy(root / "scripts/install.sh", folder / "install.sh")
        for name in ("date", "grep", "sleep", "kill", "mkdir", "cat", "chmod", "ln"):
            (self.tools / name).symlink_to(str(shutil.which(name)))

    def tool(self, name: str, text: str) -> None:
        path = self.tools / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n{text}\n')
        path.chmod(0o755)

    def python(self, name: str, version: str, makes: bool = True) -> None:
        """An interpreter that tells its version, and makes environments that hold itself and uv."""
        make = f"for folder; do :; done; {self._environment(name)}"
        self.tool("true-uv", "exit 0")
        self.tool(name, f'case "$1 $2" in\n-c*) echo {version};;\n"-m venv") {make if makes else "exit 1"};;\nesac')

    def _environment(self, python: str) -> str:
        links = (f'ln -sf {self.tools}/{target} "$folder/bin/{name}"' for name, target in
                 (("python", python), ("uv", "true-uv")))  # fmt: skip
        return f'mkdir -p "$folder/bin"; {"; ".join(links)}'

    def uv(self, fetches: bool = True, name: str = "uv") -> None:
        """A uv that fetches an interpreter of the version that it is asked for."""
        self.python("fetched", "3.12")
        make = f"folder=.venv; {self._environment('fetched')}"
        self.tool(name, f'if [ "$1" = venv ]; then {make if fetches else "echo offline >&2; exit 1"}; fi')

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "install.sh"], cwd=self.folder, capture_output=True, text=True, check=False,
            env={"PATH": str(self.tools), "UV_VERSION": "0.13.9", **environment},
        )  # fmt: skip

    @property
    def calls(self) -> str:
        return (self.folder / "calls").read_text()


@pytest.fixture
def place(root: Path, tmp_path: Path) -> Place:
    return Place(root, tmp_path / "place")


@pytest.mark.parametrize("version", ADMITTED)
def test_the_systems_python_is_taken_where_it_is_admitted(place: Place, version: str) -> None:
    place.python("python3", version)
    done = place.install()
    assert done.returncode == 0, done.stderr
    assert "python3 -m venv --clear .venv" in place.calls
    assert "uv pip install --quiet --python .venv/bin/python --require-hashes" in place.calls


@pytest.mark.parametrize("version", ["3.10", "3.15"])
def test_another_admitted_python_is_taken_where_the_systems_is_outside(place: Place, version: str) -> None:
    place.python("python3", version)
    place.python("python3.13", "3.13")
    assert place.install().returncode == 0
    assert "python3.13 -m venv --clear .venv" in place.calls


@pytest.mark.parametrize("version", ["3.9", "3.15"])
def test_uv_fetches_a_python_where_all_here_are_outside(place: Place, version: str) -> None:
    place.python("python3", version)
    place.uv()
    done = place.install()
    assert done.returncode == 0, done.stderr
    assert "uv venv --quiet --clear --python 3.12 .venv" in place.calls
    assert "fetching 3.12 with uv" in done.stderr


def test_without_uv_any_python_brings_it_to_fetch_another(place: Place) -> None:
    place.python("python3", "3.9")
    place.uv(name="true-uv")  # what `pip install uv` leaves in an environment
    done = place.install()
    assert done.returncode == 0, done.stderr
    assert "python3 -m venv .work/uv" in place.calls
    assert "pip install --quiet --disable-pip-version-check uv==0.13.9" in place.calls
    assert "true-uv venv --quiet --clear --python 3.12 .venv" in place.calls


def test_a_fetch_that_fails_ends_with_2_and_a_cure(place: Place) -> None:
    place.python("python3", "3.9")
    place.uv(fetches=False)
    done = place.install()
    assert done.returncode == 2
    assert "offline" in done.stderr
    assert "Cure: install Python 3.12, then: make PYTHON=/path/to/python3.12 install" in done.stderr


def test_a_python_that_was_asked_for_and_is_outside_is_named(place: Place) -> None:
    place.python("python3", "3.12")
    place.python("mine", "3.9")
    done = place.install(PYTHON="mine")
    assert done.returncode == 2
    assert "PYTHON = mine is 3.9: expected one of 3.11 3.12 3.13 3.14. Cure: leave PYTHON out" in done.stderr


def test_a_python_without_venv_leaves_it_to_uv(place: Place) -> None:
    place.python("python3", "3.13", makes=False)
    done = place.install()
    assert done.returncode == 2
    assert "Cure: sudo apt-get install python3-venv" in done.stderr
    place.uv()
    assert place.install().returncode == 0
    assert f"uv venv --quiet --clear --python {place.tools}/python3 .venv" in place.calls


def test_every_step_says_its_start_its_end_and_its_time(place: Place) -> None:
    place.python("python3", "3.12")
    output = place.install().stderr.splitlines()
    began, ended = (line for line in output if "Installing 1 packages" in line)
    assert began == "Installing 1 packages into .venv (about 7 GB on disk) ..."
    # Whole seconds of the clock, which may strike in between.
    assert re.fullmatch(r"Installing 1 packages into \.venv \(about 7 GB on disk\): done in [01] s", ended)
    assert not [line for line in output if "\r" in line]


def test_on_a_terminal_a_clock_runs_while_packages_are_installed(place: Place) -> None:
    place.python("python3", "3.12")
    place.tool("true-uv", "sleep 1.2")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["/bin/sh", "install.sh"], cwd=place.folder, stderr=theirs, env={"PATH": str(place.tools), "UV_VERSION": "1"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(ours)
    assert b"\r\x1b[K  0 s" in shown
    assert b"\r\x1b[K  1 s" in shown


def test_hooks_run_the_tools_of_make_check_from_the_locked_environment(root: Path) -> None:
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = re.findall(
        r"^\t@\$\(BIN\)/(.+)$", (root / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0], re.M
    )
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == [
        check.removesuffix(" .") for check in checks
    ]
    assert {hook["language"] for hook in hooks} == {"system"}
    lock = (root / "requirements.lock").read_text()
    assert all(f"\n{check.split()[0]}==" in lock for check in [*checks, "pre-commit"])


def test_an_environment_of_another_folder_or_without_its_interpreter_is_made_anew(root: Path, tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "it's a copy"
    (first / "scripts").mkdir(parents=True)
    shutil.copy(root / "Makefile", first)
    for name in ("requirements.lock", "pyproject.toml"):
        (first / name).touch()
    (first / "scripts/install.sh").write_text(
        "mkdir -p .venv/bin; echo made >> .venv/calls; echo 'exit 0' > .venv/bin/python; chmod +x .venv/bin/python\n"
    )

    def calls(folder: Path) -> int:
        subprocess.run(["make", "--silent", "install"], cwd=folder, check=True, capture_output=True)
        return len((folder / ".venv/calls").read_text().splitlines())

    assert [calls(first), calls(first)] == [1, 1]
    shutil.copytree(first, copy)
    (copy / ".venv/old").touch()
    assert [calls(copy), calls(copy)] == [1, 1]
    assert not (copy / ".venv/old").exists()
    (first / ".venv/bin/python").write_text("exit 1\n")
    assert calls(first) == 2
    shutil.rmtree(copy / ".venv")
    (copy / ".venv").symlink_to(first / ".venv")
    assert calls(copy) == 2, "a link to another folder's environment is meant"
