from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from pipeline.distributed import heartbeat


def _beats(path: Path, rank: int) -> None:
    pulse, step = heartbeat.Pulse(path, rank, rank), 0
    while True:
        step += 1
        pulse.beat("loading", step, step % 5)


def test_whoever_reads_in_the_middle_of_a_beat_sees_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "beats"
    heartbeat.create(path, 2)
    ranks = [multiprocessing.get_context("fork").Process(target=_beats, args=(path, rank)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    try:
        until = time.monotonic() + 60
        while len(heartbeat.read(path)) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(20_000):
            beats = heartbeat.read(path)
            assert [beat.pid for beat in beats] == [rank.pid for rank in ranks]
            assert all(abs(time.monotonic() - beat.at) < 60 for beat in beats)  # 0 is what a wiped place says
            assert not heartbeat.stalled(beats, limit_seconds=60)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
