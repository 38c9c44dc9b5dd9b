"""The README of a paper's folder: what is in it, and the commands that make each number again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.paper.figures import PaperFigure
from pipeline.paper.finished import Finished
from pipeline.paper.origins import TrainingOrigin
from pipeline.paper.tables import PaperTable
from pipeline.system.text import code, markdown


def readme(
    out: Path,
    tables: Sequence[PaperTable],
    figures: Sequence[PaperFigure],
    trainings: Sequence[TrainingOrigin],
    found: Finished,
    left_out: Sequence[str],
) -> str:
    """The page, in Markdown."""
    commands = dict.fromkeys(origin.command for one in tables for origin in one.origins if origin.command)
    lines = [
        "# Tables and figures",
        "",
        f"Written by {code(f'everest paper --out {out}')}. The same command in the same checkout writes it again; a "
        "file that you changed is not overwritten: the command stops and names it.",
        "",
        "Numbers are those of the reports in `outputs/`, to the digit. `numbers.csv` has each of them with the tracked "
        "runs behind it, their commit, the data's content hashes and the command that makes it again.",
        "",
        "| table | shows |",
        "| --- | --- |",
        *(
            f"| `tables/{one.name}.tex`, `.md` | {markdown(one.table.caption)} (from `{one.source}`) |"
            for one in tables
        ),
        "",
    ]
    if figures:
        lines += [
            "| figure | shows |",
            "| --- | --- |",
            *(f"| `figures/{figure.name}.pdf` | {markdown(figure.caption)} |" for figure in figures),
            "",
            "Figures are vectors, 3.3 inches wide (one column), in colours that colour-blind readers tell apart.",
            "",
        ]
    lines += [
        "LaTeX needs `booktabs`, `textcomp` and `graphicx`. `pdflatex paper.tex` shows all of it on a few pages.",
        "",
        "## What the data support",
        "",
        *(f"- {markdown(sentence)}" for sentence in _sentences(found)),
        "",
        "## Commands",
        "",
        "In a checkout of the commit that `numbers.csv` names, with the data of the hashes that it names:",
        "",
        "```",
        *(command.replace("`", "'") for command in commands),
        f"everest paper --out {out}",
        "```",
        "",
    ]
    known = sum(bool(one.runs) for one in trainings)
    if trainings:
        lines += [
            f"Of {len(trainings)} trainings {known} are known to the tracking store; `everest reproduce RUN` makes one "
            "again from its own commit, data and parameters, and compares to the bit.",
            "",
        ]
    if left_out:
        lines += ["## Left out, or not known", "", *(f"- {markdown(line)}" for line in left_out), ""]
    return "\n".join(lines).rstrip() + "\n"


def _sentences(found: Finished) -> list[str]:
    each = (found.experiment, found.comparison, found.repetition)
    return list(dict.fromkeys(sentence for summary in each if summary is not None for sentence in summary["sentences"]))
