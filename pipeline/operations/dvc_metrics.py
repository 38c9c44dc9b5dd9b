"""`python -m pipeline.operations.dvc_metrics STAGE ...`: send the stages' metrics to DVC's default remote.

`dvc push` leaves out what is `cache: false`, the metrics that git keeps; but without them `dvc repro --pull` of another
checkout restores none of the stage's results and computes it again. DVC's own cache has them, beside its run cache.
"""

from __future__ import annotations

import sys


def main(stages: list[str]) -> int:
    """1 where the remote has not taken them all."""
    from dvc.repo import Repo

    with Repo() as repo:
        outputs = [out for name in stages for stage in repo.stage.collect(name) for out in stage.outs]
        missing = repo.cloud.push({out.hash_info for out in outputs if not out.use_cache and out.hash_info}).failed
    if missing:
        sys.stderr.write(f"error: {len(missing)} metrics did not reach DVC's default remote.\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
