"""A process that measures one video after another for `ingest_pool`, and may be killed at any moment.

Requests are [path, reader, seconds]. A decoder that spins while it holds Python's lock, eats memory or crashes takes
down this process only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data.ingest.measure import measure
from pipeline.data.video.process import serve


def _answer(name: str, reader: str, seconds: float) -> dict[str, Any]:
    return measure(Path(name), reader, seconds).as_dict()


if __name__ == "__main__":
    serve(_answer)
