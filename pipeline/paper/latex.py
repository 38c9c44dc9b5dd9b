"""Tables as LaTeX with booktabs. A name may hold anything: it is set as it is, never as a command."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from pipeline.system.text import printable

#: Characters that are commands, or that old font encodings set as others, and what sets them.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}
#: Rows of one float: more do not fit a page.
PAGE = 48


def escaped(text: object) -> str:
    """Text that LaTeX sets as it is, on one line; a sign before digits is set as one."""
    shown = printable(text)
    if re.match(r"-\d", shown):
        return "$-$" + escaped(shown[1:])
    words = "".join(_SPECIAL.get(character, character) for character in re.sub("-(?=-)", "-\0", shown))
    return words.replace("\0", "{}")  # two hyphens in a name are no dash


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Collection[int],
    caption: str,
    label: str,
    comment: str,
) -> str:
    """One or more floats over the page's width: `left` columns read from the left, the others from the right."""
    pages = [rows[start : start + PAGE] for start in range(0, len(rows), PAGE)] or [[]]
    floats = []
    for number, page in enumerate(pages):
        end = "" if len(pages) == 1 else f" ({number + 1} of {len(pages)})"
        floats.append(_float(head, page, left, escaped(caption) + end, f"{label}{number + 1 if number else ''}"))
    return f"% {' '.join(printable(comment).split())}\n" + "\n".join(floats)


def _float(head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int], caption: str, label: str) -> str:
    columns = "".join("l" if place in left else "r" for place in range(len(head)))
    lines = [
        r"\begin{table*}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _row(head),
        r"\midrule",
        *map(_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    texts = [escaped(cell) for cell in cells]
    # Behind the end of a row a bracket or a star would be an argument of it.
    if texts[0][:1] in ("[", "*"):
        texts[0] = "{}" + texts[0]
    return " & ".join(texts) + r" \\"


DOCUMENT = r"""% All of this folder on a few pages: pdflatex paper.tex (names in other scripts: xelatex or lualatex)
\documentclass[10pt,twocolumn]{article}
\usepackage[margin=2cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{textcomp,booktabs,graphicx}
\begin{document}
CONTENT
\end{document}
"""


def document(tables: Sequence[str], figures: Sequence[tuple[str, str]]) -> str:
    """A document that shows all tables and figures (name, caption) of the folder."""
    parts = [rf"\input{{tables/{name}.tex}}" for name in tables]
    parts += [
        "\n".join(
            (
                r"\begin{figure}[t]",
                r"\centering",
                rf"\includegraphics[width=\columnwidth]{{figures/{name}.pdf}}",
                rf"\caption{{{escaped(caption)}}}",
                rf"\label{{fig:{name}}}",
                r"\end{figure}",
            )
        )
        for name, caption in figures
    ]
    # A page at times: LaTeX holds only so many floats back.
    pages = ["\n".join(parts[start : start + 6]) for start in range(0, len(parts), 6)]
    return DOCUMENT.replace("CONTENT", "\n\\clearpage\n".join(pages))
