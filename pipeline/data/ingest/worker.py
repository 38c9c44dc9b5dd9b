"""The program of a decoding process (:mod:`pipeline.data.ingest.process`): `python -m` this module.

A decoder that spins while it holds Python's lock, eats memory or crashes takes down this process only.
"""

from __future__ import annotations

# What will be asked for is loaded before memory is limited and a clock runs.
from pipeline.data.ingest import measure, reading, taking  # noqa: F401
from pipeline.data.ingest.process import serve

if __name__ == "__main__":
    serve()
