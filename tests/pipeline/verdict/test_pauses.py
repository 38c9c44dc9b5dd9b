"""A pre-training that takes turns ends in the same weights, to the bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import ready

from pipeline import layout
from pipeline.distributed import ends
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.distributed.launch import raise_end
from pipeline.errors import Interrupted, Paused
from pipeline.params import Params
from pipeline.params.declared import corpus_inputs, work_key
from pipeline.params.write import write_params
from pipeline.system.processes import PAUSE_AT, StopRequest
from pipeline.training import worker

STEPS = 5 * (18 // 8)


def train(params: Params, work: Path) -> None:
    """What a rank does, in this process."""
    work.mkdir(exist_ok=True)
    job = worker.TrainingJob("pretrain", None, "cpu", params.model_dump(mode="json"), str(work / "spool.jsonl"))
    worker.train(job, work, Ranks(0, 1, 0, torch.device("cpu")), Pulse(None), StopRequest())


def test_paused_twice_or_not_at_all_the_weights_are_equal_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready(pretrain__epochs=5, pretrain__checkpoint_every_steps=100)
    train(params, tmp_path / "whole")
    for share in (0.3, 0.7):
        monkeypatch.setenv(PAUSE_AT, str(share))
        with pytest.raises(Paused, match=rf"paused after step {round(share * STEPS)}; saved"):
            train(params, tmp_path / "turns")
        saved = layout.checkpoint_steps(tmp_path / "turns" / "checkpoints")
        assert saved[-1] == round(share * STEPS)
    monkeypatch.delenv(PAUSE_AT)
    train(params, tmp_path / "turns")
    finals = [tmp_path / name / "final" for name in ("whole", "turns")]
    digests = [hashlib.sha256((final / "model.safetensors").read_bytes()).hexdigest() for final in finals]
    assert digests[0] == digests[1]
    losses = [[row.split(",")[2] for row in (final / "history.csv").read_text().splitlines()] for final in finals]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1 + STEPS


def test_a_signal_in_a_pause_is_told_as_one() -> None:
    stop = StopRequest()
    stop.note(15)
    stop.pause()
    assert stop.signal == "SIGTERM"


def test_the_launcher_tells_a_pause_from_a_stop(tmp_path: Path) -> None:
    for error in (Paused("paused after step 3; saved."), Interrupted("stopped by SIGINT after step 3; saved.")):
        end = ends.RankEnd.of(0, 3, error)
        with pytest.raises(type(error)) as caught:
            raise_end(end, tmp_path)
        assert type(caught.value) is type(error)


@pytest.mark.slow
def test_a_stage_that_is_paused_ends_with_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, tracking_store: str
) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready(pretrain__epochs=5, pretrain__checkpoint_every_steps=100, compute__ranks=2)
    write_params(tmp_path / "params.yaml", params)
    environment = {
        **os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "MLFLOW_TRACKING_URI": tracking_store,
        "EVEREST_TRACKING_WAIT": "1", PAUSE_AT: "0.5",
    }  # fmt: skip
    command = [sys.executable, "-m", "pipeline.cli", "pretrain"]
    done = subprocess.run(command, env=environment, check=False, timeout=900, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    (work,) = tmp_path.glob(".work/pretrain/all/*/")
    assert work.name == work_key("pretrain", None, params, corpus_inputs(params.pretrain.corpus)), "where slices look"
    assert layout.checkpoint_steps(work / "checkpoints") == [STEPS // 2]
