"""The command line `everest`. Every command imports what it needs when it runs: `everest --help` stays fast.

Exit codes: 0 ok, 1 failed, 2 bad input, 3 budget spent (state saved), 130 stopped after saving.
"""

from __future__ import annotations

import sys

import typer

from pipeline.commands import bench, chain, data, looking, ops, own, planning
from pipeline.errors import EverestError, Interrupted
from pipeline.operations.secret_files import read_secrets, set_umask
from pipeline.system.disk import DiskFullError, full_places, is_full
from pipeline.system.redact import guard_output, redact
from pipeline.system.text import visible

app = typer.Typer(
    name="everest",
    help="EVEREST masked video pre-training, from raw videos to a comparable result with its cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (chain, planning, data, own, looking):
    app.add_typer(part.app)
app.add_typer(bench.app, name="bench")
app.add_typer(ops.app, name="ops", help="Operate: servers, worker, queue, clean-up, backup.")


def main() -> None:
    """Entry point: turns our own errors into one message and an exit code, without secrets."""
    guard_output()
    try:
        read_secrets()
        set_umask()
        app()
    except EverestError as error:
        kind = "" if isinstance(error, Interrupted) else "error: "
        sys.stderr.write(f"{kind}{visible(redact(str(error)))}\n")
        sys.exit(error.exit_code)
    except Exception as error:
        # Any small file may be the one that a full disk has no room for, and most libraries do not say which.
        if not is_full(error):
            raise
        places = ", ".join(map(str, full_places(sys.argv[1:]))) or "standard output, or a file that is gone by now"
        full = DiskFullError(getattr(error, "filename", None) or places)
        sys.stderr.write(f"error: {visible(str(full))}\n")
        sys.exit(EverestError.exit_code)
    except SystemExit as end:
        if end.code == Interrupted.exit_code:  # typer's answer to Ctrl-C, which the terminal shows as ^C
            sys.stderr.write("\nstopped; what is finished is kept, and the same command goes on from there.\n")
        raise


if __name__ == "__main__":
    main()
