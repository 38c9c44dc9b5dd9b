"""The chain in this checkout, as it stands: what `everest demo` and `everest run` start as a process of its own."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.names import committed
from flows.repro import workspace
from flows.run import identity, run_stages, task_runner
from flows.stages import COMPARE, Stage, chain
from pipeline.errors import EverestError
from pipeline.params import load_params
from pipeline.text import visible


@flow(name="local", flow_run_name=committed, task_runner=task_runner())
def local(on_terminal: bool = False, compare: bool = False) -> dict[str, str]:
    """Bring every stage of params.yaml up to date (and the comparison); returns what DVC did with each."""
    root = Path.cwd()
    name = str(flow_run.id or "manual")
    params = load_params(root / "params.yaml")
    stages = chain(params)
    if compare:
        stages.append(Stage(COMPARE, (stages[-1].name,), trains=True))
    return run_stages(stages, params, workspace(root, name, identity(name), on_terminal))


def main() -> int:
    """Run the flow and write its outcomes as JSON; the exit code is the command line's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--on-terminal", action="store_true")
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    # The usual effect of SIGTERM would skip the clean-up that ends the embedded server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = local(arguments.on_terminal, arguments.compare)
    except EverestError as error:
        sys.stderr.write(f"error: {visible(str(error))}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        if "ephemeral Prefect API server" not in str(error):
            raise
        sys.stderr.write(
            "error: Prefect's embedded server did not start in time: the machine is busy, or its database "
            "(PREFECT_HOME) is locked. Cure: start again when it is idle, or `make ui` and set PREFECT_API_URL.\n"
        )
        return 1
    arguments.outcomes.write_text(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
