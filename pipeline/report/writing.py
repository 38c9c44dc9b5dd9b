"""A report's files: the page, the same in Markdown, the numbers, the plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.report.page import Section, html, markdown
from pipeline.report.plots import as_file
from pipeline.system.files import write_text
from pipeline.system.text import storable


def write_pages(
    folder: Path,
    title: str,
    subtitle: str,
    summary: Mapping[str, Any],
    sections: Sequence[Section],
    plots: Mapping[str, str],
) -> list[Path]:
    """Write report.html, report.md, summary.json and `<name>.svg` of each plot; empty sections are left out."""
    used = [s for s in sections if s.tables or s.plots or s.matrices or s.pictures]
    texts = {
        "report.html": html(title, subtitle, summary["sentences"], used),
        "report.md": markdown(title, subtitle, summary["sentences"], used),
        "summary.json": json.dumps(storable(summary), indent=1) + "\n",
        **{f"{name}.svg": as_file(svg) for name, svg in plots.items()},
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
