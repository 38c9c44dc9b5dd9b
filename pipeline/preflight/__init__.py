"""What params, manifests and the machine already tell is said before the first stage, not after days of training.

A check is a function from what is about to run to its problems; it takes milliseconds, writes nothing and imports no
torch. `everest run`, `demo` and `compare` ask all of them, each stage asks for itself, a flow asks in its worktree
(`python -m pipeline.preflight`), and `everest doctor` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.errors import EverestError, InputError
from pipeline.preflight import machine, places, services, videos
from pipeline.preflight.problem import Problem, Scope, chain_scope, stage_scope, trial_scope

__all__ = ["CHECKS", "SERVICES", "Problem", "Scope", "chain_scope", "problems", "require", "stage_scope", "trial_scope"]

Check = Callable[[Scope], Iterable[Problem]]
CHECKS: tuple[Check, ...] = (
    machine.ranks,
    machine.devices,
    machine.tokens,
    places.weights,
    places.sources,
    places.cluster,
    videos.splits,
    videos.batches,
    places.disk,
)
#: What `everest run` and `compare` need beside that; a stage alone needs none of it.
SERVICES: tuple[Check, ...] = (services.dvc, services.mlflow, services.prefect)


def problems(scope: Scope, checks: Iterable[Check] = CHECKS) -> list[Problem]:
    """All that stands in the way, each once."""
    return list(dict.fromkeys(problem for check in checks for problem in check(scope)))


def require(scope: Scope, checks: Iterable[Check] = CHECKS) -> list[Problem]:
    """The warnings; nothing was written.

    Raises:
        InputError, EverestError: something stands in the way; one line for each problem.
    """
    obstacles = problems(scope, checks)
    fatal = [problem for problem in obstacles if problem.kind != "warning"]
    if fatal:
        only_failures = all(problem.kind == "failure" for problem in fatal)
        raise (EverestError if only_failures else InputError)("\n".join(map(str, fatal)))
    return [problem for problem in obstacles if problem.kind == "warning"]
