"""`python -m pipeline.bench.gpu`: the same as `everest bench gpu`, where the command line is not installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.bench.gpu.run import PARTS, command
from pipeline.errors import EverestError, InputError
from pipeline.system.text import printable, visible


def main() -> int:
    """The exit code: 0 every row is there, 1 a check failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench.gpu", description="Check and time a GPU.")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=None)
    parser.add_argument("--out", type=Path, required=True)
    wish = parser.parse_args()
    try:
        result = command(wish.minutes, wish.device, wish.only, wish.out)
    except EverestError as error:
        sys.stderr.write(f"{visible(str(error))}\n")
        return 2 if isinstance(error, InputError) else 1
    sys.stdout.write(f"{visible(result['summary'])}\n{printable(result['page'])}\n")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
