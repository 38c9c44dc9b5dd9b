"""A process that measures one video after another for `ingest_pool`, and may be killed at any moment.

It reads a JSON list [path, readers] a line from standard input and answers a JSON object a line. A decoder
that spins while it holds Python's lock, eats memory or crashes takes down this process only. torch is never
imported.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

from pipeline.data.ingest_measure import measure
from pipeline.data.video import preload
from pipeline.lifeline import die_with_parent


def main() -> None:
    memory_bytes = int(sys.argv[1])
    die_with_parent(signal.SIGKILL)  # a decoder that never returns would not notice
    # Answers go to the real standard output; what libraries print goes where errors go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    preload()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        name, readers = json.loads(line)
        found = measure(Path(name), tuple(readers))
        print(json.dumps(found.as_dict()), file=answers, flush=True)


if __name__ == "__main__":
    main()
