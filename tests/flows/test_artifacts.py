"""The way from a flow run to its tracked run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.artifacts import mlflow_page, rounded, tracked_run


def test_the_tracked_experiment_of_a_flow_run_is_found_by_its_tag(tmp_path: Path) -> None:
    for name, parent, flow, remote in (("p", None, "f1", "r1"), ("c", "p", "f1", "r2"), ("q", None, "f2", None)):
        folder = tmp_path / name
        folder.mkdir()
        tags = {"prefect.flow_run_id": flow}
        (folder / "run.json").write_text(json.dumps({"parent": parent, "tags": tags}))
        if remote:
            (folder / "remote.json").write_text(json.dumps({"run_id": remote}))
    assert tracked_run(tmp_path, "f1") == "r1"
    assert tracked_run(tmp_path, "f2") is None, "the server has not answered yet"
    assert tracked_run(tmp_path, "f3") is None


def test_the_page_is_the_servers_or_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVEREST_MLFLOW_PAGE", raising=False)
    assert mlflow_page("http://host:5000/") == "http://host:5000"
    assert mlflow_page("sqlite:///mlflow.db") == "http://127.0.0.1:5000"
    assert rounded({"a": 1.23456, "b": "x"}) == {"a": 1.235, "b": "x"}


def test_a_login_in_the_trackings_address_stays_off_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlflow_page("https://everest:s3cr@t@host:5000/mlflow/") == "https://host:5000/mlflow"
    monkeypatch.setenv("EVEREST_MLFLOW_PAGE", "https://everest:secret@page/")
    assert mlflow_page("sqlite:///mlflow.db") == "https://page"
