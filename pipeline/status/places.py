"""Where work may lie: checkouts of this machine, and in each the folders of comparisons, repetitions and flow runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import layout
from pipeline.system import git

#: Folders below `.work` that hold runs of the chain in folders of their own, and the command that continues each.
NESTED = {
    "compare": "everest compare",
    "repeat": "everest repeat",
    "worktrees": "a new run of the same deployment",
    "reproduce": "everest reproduce",
}


@dataclass(frozen=True)
class Place:
    """A folder with params.yaml in which stages run.

    Attributes:
        root: the checkout that it belongs to; itself for the chain.
        series: the training's name in a comparison and so on; empty for the chain.
        command: what goes on with stopped work there.
    """

    folder: Path
    root: Path
    series: str
    command: str

    @property
    def work(self) -> Path:
        return self.folder / layout.WORK

    @property
    def runs(self) -> list[Path]:
        """Where its tracked runs may lie."""
        return [folder / layout.WORK / "runs" for folder in dict.fromkeys((self.folder, self.root))]


def checkouts(folders: Iterable[Path]) -> list[Path]:
    """The project folders among and above these, this folder's and git's worktrees of it; each once, this one first."""
    here = Path.cwd()
    listed = git.ask("worktree", "list", "--porcelain", seconds=5).text or ""
    others = [Path(line.removeprefix("worktree ")) for line in listed.splitlines() if line.startswith("worktree ")]
    roots = dict.fromkeys(_root(folder) for folder in (here, *others, *folders))
    projects = [root for root in roots if (root / "params.yaml").is_file()]
    # Of a project in which nothing ever ran only the person in it wants to know that.
    return [root for root in projects if (root / layout.WORK).is_dir() or root == _root(here)]


def _root(folder: Path) -> Path:
    """The checkout that a folder below its `.work` belongs to."""
    parts = folder.resolve().parts
    return Path(*parts[: parts.index(layout.WORK.name)]) if layout.WORK.name in parts else Path(*parts)


def places(root: Path) -> list[Place]:
    """The chain of a checkout, and what else runs stages below its `.work`."""
    listed = [Place(root, root, "", "everest run")]
    for name, command in NESTED.items():
        for folder in sorted((root / layout.WORK / name).glob("*")):
            if (folder / "params.yaml").is_file():
                series = folder.name.rpartition("-")[0] if name in ("compare", "repeat") else folder.name
                listed.append(Place(folder, root, series or folder.name, command))
    return listed
