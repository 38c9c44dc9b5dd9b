"""`python -m pipeline.preflight [STAGE ...]` in a folder with params.yaml: a flow asks so before its first stage."""

from __future__ import annotations

import argparse
import sys

from pipeline.errors import EverestError
from pipeline.params import load_params
from pipeline.preflight import Scope, chain_scope, require
from pipeline.system.text import visible


def main() -> int:
    """The exit code of the command line; problems go to stderr, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help="only these, such as download preprocess")
    names = parser.parse_args().stages
    try:
        scope = chain_scope(load_params())
        if names:
            scope = Scope(scope.params, {name: scope.of(name) for name in names if scope.has(name)}, chain=True)
        for warning in require(scope):
            sys.stdout.write(f"warning: {visible(str(warning))}\n")
    except EverestError as error:
        sys.stderr.write(f"{visible(str(error))}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
