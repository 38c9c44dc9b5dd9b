"""The chain in this checkout, as it stands: what `everest demo` and `everest run` start as a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.chain.repro import workspace
from flows.chain.run import identity, run_stages, task_runner
from flows.chain.stages import COMPARE, Stage, chain
from flows.names import committed
from pipeline.errors import EverestError
from pipeline.params import load_params
from pipeline.system.processes import on_stop
from pipeline.system.progress import Line

#: Beside the outcomes: what others than ourselves had to say.
FOREIGN = "flow.log"


@flow(name="local", flow_run_name=committed, task_runner=task_runner())
def local(compare: bool = False) -> dict[str, str]:
    """Bring every stage of params.yaml up to date (and the comparison); returns what DVC did with each."""
    Line().show("", now=True)  # Prefect has started
    root = Path.cwd()
    name = str(flow_run.id or "manual")
    params = load_params(root / "params.yaml")
    stages = chain(params)
    if compare:
        stages.append(Stage(COMPARE, (stages[-1].name,), trains=True))
    return run_stages(stages, params, workspace(root, name, identity(name)))


def main() -> int:
    """Run the flow and write its outcomes as JSON, or `{"error": ...}`; the exit code is the command line's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    set_apart(arguments.outcomes.with_name(FOREIGN))
    # The usual effect of SIGTERM would skip the clean-up that ends the embedded server.
    on_stop(signal.default_int_handler)
    try:
        outcomes = local(arguments.compare)
    except EverestError as error:
        arguments.outcomes.write_text(json.dumps({"error": str(error)}))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        if "ephemeral Prefect API server" not in str(error):
            raise
        message = (
            "Prefect's embedded server did not start in time: the machine is busy, or its database "
            "(PREFECT_HOME) is locked. Cure: start again when it is idle, or `make ui` and set PREFECT_API_URL."
        )
        arguments.outcomes.write_text(json.dumps({"error": message}))
        return 1
    arguments.outcomes.write_text(json.dumps(outcomes))
    return 0


def set_apart(log: Path) -> None:
    """Send to `log` what Prefect, its embedded server and libraries write to stderr; our own words stay here.

    They tell of every connection that a process takes along when it is killed: pages of tracebacks, none of a cause.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    # What nobody caught goes there too: `sys.__stderr__` is the descriptor that now leads there.
    sys.excepthook = lambda kind, error, trace: traceback.print_exception(kind, error, trace, file=sys.__stderr__)
    threading.excepthook = lambda failure: traceback.print_exception(failure.exc_value, file=sys.__stderr__)


if __name__ == "__main__":
    sys.exit(main())
