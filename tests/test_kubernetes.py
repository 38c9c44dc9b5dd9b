"""docker/kubernetes: valid by Kubernetes' own schemas and whole in itself. No cluster has run it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app

VERSION = "1.33"
FILES = ("servers.yaml", "worker.yaml")


@pytest.fixture(scope="module")
def manifests(root: Path) -> list[dict[str, Any]]:
    texts = [(root / "docker/kubernetes" / name).read_text() for name in FILES]
    loaded = [yaml.safe_load(text) for text in texts]
    return [manifest for one in loaded for manifest in one.get("items", [one])]


@pytest.fixture(scope="module")
def template(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "docker/kubernetes/base-job-template.json").read_text())
    return loaded


def rendered(template: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The job that Prefect would make of the template, by Prefect's own rule for placeholders."""
    from prefect.utilities.templating import apply_values

    defaults = {
        name: entry["default"] for name, entry in template["variables"]["properties"].items() if "default" in entry
    }
    configuration: Any = apply_values(template["job_configuration"], defaults | given)
    job: dict[str, Any] = configuration["job_manifest"]
    # What prefect-kubernetes does of itself before it submits: the run's environment goes before the template's own.
    container = job["spec"]["template"]["spec"]["containers"][0]
    own = [{"name": name, "value": value} for name, value in configuration["env"].items()]
    container["env"] = own + container["env"]
    container["args"] = container["args"].split()
    return job


def pods(manifests: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(m["metadata"]["name"], m["spec"]["template"]["spec"]) for m in manifests if "template" in m["spec"]]


def test_every_manifest_is_valid_by_kubernetes_schema(manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    wrong = json.loads(json.dumps(manifests[-1]))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_prefects_template_declares_what_it_uses_and_makes_a_valid_job(template: dict[str, Any]) -> None:
    jsonschema.Draft7Validator.check_schema(template["variables"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    job = rendered(
        template,
        name="run",
        command="prefect flow-run execute",
        env={"PREFECT_API_URL": "http://prefect:4200/api"},
        gpus=4,
    )
    kubernetes_validate.validate(job, VERSION, strict=True)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert job["metadata"]["namespace"] == "everest"


def test_pods_are_hardened_bounded_and_give_trainings_time_to_save(
    manifests: list[dict[str, Any]], template: dict[str, Any]
) -> None:
    job = rendered(template, name="run", command="x")["spec"]["template"]["spec"]
    for name, pod in [*pods(manifests), ("job", job)]:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
        if name in ("worker", "job"):
            assert pod["terminationGracePeriodSeconds"] >= 110, name


def test_dvc_git_and_a_checkout_on_a_new_volume_find_a_place_that_they_can_use(
    manifests: list[dict[str, Any]], template: dict[str, Any]
) -> None:
    job = rendered(template, name="run", command="x", env={"ONE": "1"})["spec"]["template"]["spec"]
    worker = next(pod for name, pod in pods(manifests) if name == "worker")
    for container in [*worker["initContainers"], *worker["containers"], *job["containers"]]:
        name, given = container["name"], {entry["name"]: entry["value"] for entry in container["env"]}
        (checkout,) = [mount for mount in container["volumeMounts"] if mount["name"] == "checkout"]
        assert checkout["subPath"] == "checkout", f"{name}: the volume's root may hold lost+found, and is root's"
        assert [given[f"GIT_CONFIG_{what}"] for what in ("COUNT", "KEY_0", "VALUE_0")] == [
            "1", "safe.directory", checkout["mountPath"],
        ], name  # fmt: skip
        if name != "checkout":
            assert (given["HOME"], given["DVC_SITE_CACHE_DIR"]) == ("/tmp", "/tmp/dvc"), name
    assert {"name": "ONE", "value": "1"} in job["containers"][0]["env"], "the run's own variables come with it"


def test_a_worker_whose_server_is_away_is_not_started_again(manifests: list[dict[str, Any]]) -> None:
    (container,) = next(pod for name, pod in pods(manifests) if name == "worker")["containers"]
    assert "livenessProbe" not in container
    assert container["startupProbe"]["httpGet"]["path"] == "/health"


def test_mounts_secrets_and_services_that_are_named_exist(manifests: list[dict[str, Any]], root: Path) -> None:
    made = (root / "docker/prepare.sh").read_text()
    services = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Service"}
    claims = {
        m["metadata"]["name"]: m["spec"].get("volumeClaimTemplates", [])
        for m in manifests
        if m["kind"] == "StatefulSet"
    }
    for name, pod in pods(manifests):
        volumes = {volume["name"] for volume in (*pod["volumes"], *(c["metadata"] for c in claims[name]))}
        given = {i["path"] for v in pod["volumes"] if "secret" in v for i in v["secret"]["items"]}
        keys = {i["key"] for v in pod["volumes"] if "secret" in v for i in v["secret"]["items"]}
        assert all(key in made for key in keys), name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            told = json.dumps([container.get("env", []), container.get("args", [])])
            assert set(re.findall(r"/run/secrets/everest/(\w+)", told)) <= given, name
            assert set(re.findall(r"http://(\w+):", told)) <= services, name
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|AUTH|DATABASE|CREDENTIALS", variable["name"]):
                    assert variable["value"].startswith("/run/secrets/"), name


def test_every_command_of_ours_exists_with_its_options(manifests: list[dict[str, Any]]) -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    seen = 0
    for name, pod in pods(manifests):
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            words = container.get("args", [])
            if words[:1] != ["everest"]:
                continue
            done = runner.invoke(app, [*words[1:3], "--help"])
            assert done.exit_code == 0, name
            assert all(word in done.output for word in words if word.startswith("--")), name
            seen += 1
    assert seen == 4
