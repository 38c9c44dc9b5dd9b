"""Small JSON files that a run of ranks leaves, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

STATUS = "status.json"


def write(path: Path, value: dict[str, Any]) -> None:
    """Atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=1), encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> dict[str, Any]:
    """{} where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(value)
