"""A step before a run's flow: it works in the checkout of the worker that took it, whichever machine that is on."""

from __future__ import annotations

import os

from pipeline.errors import EverestError

#: The variable by which a worker of ours tells its runs where it was started.
CHECKOUT = "EVEREST_CHECKOUT"


def enter() -> dict[str, str]:
    """Go to the worker's checkout; prefect.yaml names this as a `pull` step.

    Returns:
        the folder, as Prefect's own steps say it.

    Raises:
        EverestError: the worker is none of ours, or its checkout is gone.
    """
    folder = os.environ.get(CHECKOUT, "")
    try:
        os.chdir(folder)
    except OSError:
        raise EverestError(
            f"{CHECKOUT} = {folder!r} is no folder: this run works in the checkout of its worker, which names "
            "none. Cure: `everest ops worker --pool POOL` in a checkout, not `prefect worker start`."
        ) from None
    return {"directory": folder}
