"""Secrets planted in the environment, in addresses, in code and in errors, looked for in everything that is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.distributed import ends
from pipeline.params import check_params, load_params
from pipeline.system.redact import redact

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPx",
    "MLFLOW_TRACKING_PASSWORD": "open-sesame-42",
    "HF_TOKEN": "hf_aBcDeFgHiJkLmNoP",
}
SIGNED = "https://bucket.example/v.mp4?X-Amz-Signature=0123456789abcdef"
LOGIN = "https://reader:hunter22@mirror.example/ucf"
PLANTED = [*SECRETS.values(), "0123456789abcdef", "hunter22"]

STAGE = f"""
import sys
from pathlib import Path
from pipeline.cli import main
import pipeline.cli
import logging

def app():
    import os
    from pipeline.tracking import stage_run
    from pipeline.tracking.spool import Spool
    values = {{"seed": 1, "source.token": "plain-{SECRETS["HF_TOKEN"]}", "note": "{SIGNED}", "list": ["{LOGIN}"]}}
    with stage_run("pretrain", None, values, Path(".work/pretrain/all/x"), {{"origin": "{LOGIN}"}}) as run:
        run.text("{SIGNED} and {SECRETS["MLFLOW_TRACKING_PASSWORD"]}", "notes.txt")
        logging.getLogger("pipeline").warning("trying %s", "{LOGIN}")
        sys.stderr.write("reached\\n")
        raise RuntimeError("cannot fetch {SIGNED} with " + os.environ["AWS_SECRET_ACCESS_KEY"])

pipeline.cli.app = app
main()
"""


def test_no_planted_secret_is_in_anything_that_a_failed_stage_writes_or_prints(root: Path, tmp_path: Path) -> None:
    """A real process with a real store: params, tags, texts, the diff of edited code, logs, the traceback."""

    def git(*words: str) -> None:
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "params.yaml").write_text("recipe: demo\nseed: 1\n")
    (tmp_path / "code.py").write_text("key = None\n")
    (tmp_path / ".gitignore").write_text(".work/\nmlflow.db\nmlruns/\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    edited = f'key = "{SECRETS["HF_TOKEN"]}"\npassword = "hunter22"\nurl = "{SIGNED}"\n'
    (tmp_path / "code.py").write_text(edited)
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    done = subprocess.run(
        [sys.executable, "-c", STAGE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "reached" in done.stderr
    assert "trying https://[hidden]@mirror.example/ucf" in done.stderr
    assert "RuntimeError: cannot fetch https://bucket.example/v.mp4?[hidden] with [hidden]" in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and ".git" not in path.parts]
    kept = {path.name for path in written}
    assert {"mlflow.db", "uncommitted.diff", "notes.txt", "params.yaml"} <= kept
    for path in written:
        content = path.read_bytes() if path.name != "code.py" else b""
        assert not [secret for secret in PLANTED if secret.encode() in content], path
    assert not [secret for secret in PLANTED if secret in done.stdout + done.stderr]


def test_errors_of_the_command_line_name_a_server_without_its_login(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": "http://me:hunter22@127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "lineage", "0" * 32],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the tracking store http://[hidden]@127.0.0.1:9 does not answer" in done.stderr
    assert "hunter22" not in done.stdout + done.stderr


def test_a_ranks_account_of_its_end_hides_what_the_error_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    try:
        raise OSError(f"403 for {SIGNED} with {SECRETS['HF_TOKEN']}")
    except OSError as error:
        ends.record(tmp_path, ends.RankEnd.of(0, 3, error))
    text = (tmp_path / "ends/rank-0.json").read_text()
    assert json.loads(text)["message"] == "403 for https://bucket.example/v.mp4?[hidden] with [hidden]"
    assert not [secret for secret in PLANTED if secret in text]


def test_a_login_in_params_yaml_is_refused_and_not_repeated(root: Path) -> None:
    raw: dict[str, Any] = load_params(root / "recipes/ucf101.yaml").model_dump(mode="json")
    raw["benchmarks"]["ucf101"]["data"]["source"] = {"kind": "official", "mirrors": [LOGIN]}
    with pytest.raises(ValueError, match=r"mirrors.*holds a login.*~/\.netrc") as caught:
        check_params(raw)
    assert "hunter22" not in str(caught.value)
    raw["benchmarks"]["ucf101"]["data"]["source"]["mirrors"] = ["https://mirror.example/@ucf"]
    assert check_params(raw)


def test_ordinary_texts_stay_as_they_are() -> None:
    for text in ("seed: 3", "tokens_per_clip 76.0", "s3://bucket/key", "a@b.example", "keep_ratio=0.3", "https://x/y"):
        assert redact(text) == text
