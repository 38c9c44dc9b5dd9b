"""`everest status`, once or again and again."""

from __future__ import annotations

import time
from dataclasses import asdict

from pipeline.status.look import Looker
from pipeline.status.screen import screen
from pipeline.system.processes import stop_handled
from pipeline.system.terminal import draw, echo, redrawn
from pipeline.system.text import json_document

#: [s] between two looks.
PERIOD = 2.0


def once(as_json: bool) -> None:
    """Print the state of everything."""
    status = Looker().look()
    if as_json:
        echo(json_document(asdict(status), indent=2))
    else:
        draw(screen(status))


def watch(as_json: bool, period: float = PERIOD, looks: int | None = None) -> None:
    """Show the state of everything until Ctrl-C: in place on a terminal, else one screen or JSON line after the other.

    Args:
        looks: end after so many.
    """
    looker = Looker()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        with stop_handled(stop), redrawn() as show:
            while looks is None or looks > 0:
                status = looker.look()
                if as_json:
                    echo(json_document(asdict(status)))
                else:
                    show(screen(status))
                looks = None if looks is None else looks - 1
                time.sleep(period)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # the reader has seen enough
        return
