"""docker/compose.yaml: valid by the specification, whole in itself, and each of its commands is one that exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app

#: Services of images that others make, and those of ours.
THEIRS, OURS = {"database", "store"}, {"mlflow", "prefect", "init", "worker", "worker-gpu"}
#: [s] that `everest ops worker` gives its runs, beside which stopping the worker itself takes some.
SPARE_SECONDS = 20


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    """The file with the values that stand in it for variables that are not set."""
    text = (root / "docker/compose.yaml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return loaded


def seconds(text: str) -> float:
    return sum(float(n) * {"s": 1, "m": 60, "h": 3600}[unit] for n, unit in re.findall(r"(\d+)([smh])", text))


def words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else command


def test_it_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    parsed = compose_spec.PyCompose.from_json(json.dumps(compose))
    parsed.validate()
    assert set(parsed.service_names()) == THEIRS | OURS


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"helthcheck": {}}, "helthcheck"), ({"secrets": ["absent"]}, "absent"), ({"restart": "sometimes"}, "sometimes")],
)
def test_the_validator_refuses_what_the_specification_does_not_know(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(Exception, match=word):
        compose_spec.PyCompose.from_json(json.dumps({"services": {"a": {"image": "x", **wrong}}})).validate()


def test_every_service_waits_for_others_that_exist_and_have_a_health_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} would wait for ever"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "on-failure", "what ends well must not start again"
        if "healthcheck" not in service:
            assert service["restart"] == "on-failure", name


def test_each_worker_keeps_a_name_of_its_own_by_which_the_next_one_closes_what_it_left(compose: dict[str, Any]) -> None:
    names = [service.get("hostname") for name, service in compose["services"].items() if name.startswith("worker")]
    assert names == ["worker", "worker-gpu"]


def test_every_service_is_hardened_and_bounded(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["user"] == "1000:1000", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert any(place.startswith("/tmp:") for place in service["tmpfs"]), name
        assert service.get("init") or service["image"].startswith("everest"), "ours has tini for its entry point"
        limits = service["deploy"]["resources"]["limits"]
        assert limits["memory"], name
        assert limits["pids"] <= 16384, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["restart"] in ("unless-stopped", "on-failure"), name


def test_what_ours_write_and_what_they_build_and_load_has_a_place_under_docker(compose: dict[str, Any]) -> None:
    """Docker's tmpfs is noexec unless it is told, and nothing but /tmp and mounts can be written to."""
    for name in sorted(OURS):
        service = compose["services"][name]
        (place,) = service["tmpfs"]
        assert place.startswith("/tmp:"), name
        assert "exec" in place.partition(":")[2].split(","), f"{name}: built kernels could not be loaded"
        assert service["environment"]["HOME"] == "/tmp", name
    for name in ("init", "worker", "worker-gpu"):
        assert compose["services"][name]["environment"]["DVC_SITE_CACHE_DIR"].startswith("/tmp/"), name


def test_dvc_takes_the_place_that_compose_names_instead_of_its_own_below_var(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    given = compose["services"]["worker"]["environment"]["DVC_SITE_CACHE_DIR"]
    seen = subprocess.run(
        [sys.executable, "-c", "from dvc.dirs import site_cache_dir as place; print(place(), place(None))"],
        env={**os.environ, "DVC_SITE_CACHE_DIR": given}, capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert seen.stdout.split() == [given, given]


def test_passwords_are_files_and_no_variable_holds_one(compose: dict[str, Any], root: Path) -> None:
    made = (root / "docker/prepare.sh").read_text()
    for entry in compose["secrets"].values():
        assert Path(entry["file"]).name in made, "docker/prepare.sh makes each of them"
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|AUTH|DATABASE|CREDENTIALS|SECRET", key):
                assert value.startswith("/run/secrets/"), f"{name}: {key}"
                assert value.removeprefix("/run/secrets/") in service["secrets"], f"{name} is not given {value}"
        for place in re.findall(r"/run/secrets/(\w+)", str(service.get("command", ""))):
            assert place in service["secrets"], name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name


def test_folders_that_are_mounted_are_those_that_are_prepared(compose: dict[str, Any], root: Path) -> None:
    made = (root / "docker/prepare.sh").read_text()
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and volume["source"] != "..":
                folder = volume["source"].removeprefix("./store/")
                assert re.search(rf"(for part in|\$store/)[^;\n]*\b{folder}\b", made), f"{name}: {folder}"


def test_a_stop_gives_trainings_longer_than_they_take_to_save(compose: dict[str, Any]) -> None:
    for name in ("worker", "worker-gpu"):
        service = compose["services"][name]
        grace = float(words(service["command"])[-1])
        assert words(service["command"])[:4] == ["everest", "ops", "worker", "--grace"]
        assert seconds(service["stop_grace_period"]) >= grace + SPARE_SECONDS


def test_one_profile_has_the_gpus_and_the_compiler(compose: dict[str, Any]) -> None:
    cpu, gpu = compose["services"]["worker"], compose["services"]["worker-gpu"]
    assert (cpu["profiles"], gpu["profiles"]) == (["cpu"], ["gpu"])
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert (cpu["build"]["target"], gpu["build"]["target"]) == ("everest", "gpu")
    assert not [n for n, s in compose["services"].items() if "profiles" in s and n not in ("worker", "worker-gpu")]


def test_every_command_of_ours_exists_with_its_options(compose: dict[str, Any]) -> None:
    helps: dict[tuple[str, ...], str] = {}
    runner = CliRunner(env={"COLUMNS": "200"})
    for name in OURS:
        command = words(compose["services"][name]["command"])
        assert command[0] == "everest"
        cut = next((i for i, word in enumerate(command) if word.startswith("--")), len(command))
        verb = tuple(command[1 : min(cut, 3)])
        if verb not in helps:
            done = runner.invoke(app, [*verb, "--help"])
            assert done.exit_code == 0, done.output
            helps[verb] = done.output
        for option in (word for word in command if word.startswith("--")):
            assert option in helps[verb], f"{name}: {option}"


def test_health_checks_run_what_their_image_has(compose: dict[str, Any], root: Path) -> None:
    recipe = (root / "docker/Dockerfile").read_text()
    for name, service in compose["services"].items():
        if name == "init":
            continue
        how, program, *rest = service["healthcheck"]["test"]
        assert how == "CMD", "a shell is not needed"
        if name in OURS:
            assert program == "python"
            assert "ENV PATH=/opt/venv/bin" in recipe
            compile(rest[1], name, "exec")
        else:
            assert program == {"database": "pg_isready", "store": "wget"}[name]


def test_the_first_start_makes_secrets_that_only_their_user_reads(root: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.sh").write_text((root / "docker/prepare.sh").read_text())
    (tmp_path / ".env").write_text("EVEREST_UID=1000\n")
    secrets = tmp_path / "secrets"
    found = []
    for _ in range(2):
        done = subprocess.run(["sh", "prepare.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (secrets / "password").read_text() not in done.stdout
        found.append({path.name: path.read_text() for path in secrets.iterdir()})
    kept = found[0]
    assert kept == found[1], "what is there stays"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*secrets.iterdir(), secrets, tmp_path / "store"))
    assert kept["prefect_login"] == f"everest:{kept['password']}"
    assert kept["database"] in kept["database_address"]
    identity = json.loads(kept["s3_identities.json"])["identities"][0]["credentials"][0]
    assert identity["secretKey"] in kept["s3_credentials"]
    assert len(kept["password"]) == 32


def test_what_is_prepared_is_neither_committed_nor_built_in(root: Path) -> None:
    ignored = (root / ".gitignore").read_text().split()
    assert {"/docker/.env", "/docker/secrets/", "/docker/store/"} <= set(ignored)
    admitted = [line for line in (root / ".dockerignore").read_text().split() if line.startswith("!docker")]
    assert admitted == ["!docker/dvc"]
