"""One rank of an evaluation on several GPUs: `python -m pipeline.evaluation.worker BENCHMARK --work DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.distributed.rank import live
from pipeline.errors import Interrupted
from pipeline.params import check_params
from pipeline.system.files import write_json

if TYPE_CHECKING:
    from pipeline.distributed.groups import Ranks
    from pipeline.distributed.heartbeat import Pulse
    from pipeline.evaluation.benchmark import Outcome
    from pipeline.params import Params
    from pipeline.system.processes import StopRequest

RESULT = "outcome.json"
JOB = "job.json"
PROBABILITIES = "probabilities.npy"


def launched(params: Params, benchmark: str, work: Path) -> Outcome:
    """Evaluate on several ranks, from a process without torch; see `benchmark.evaluate`."""
    import numpy as np

    from pipeline.distributed.launch import locked
    from pipeline.distributed.start import start
    from pipeline.evaluation.benchmark import Outcome
    from pipeline.evaluation.inference import Answer

    with locked(work) as lock:
        write_json(work / JOB, {"params": params.model_dump(mode="json")})
        (work / RESULT).unlink(missing_ok=True)
        start("pipeline.evaluation.worker", [benchmark], params.compute, "evaluate", work, [lock])
        about = json.loads((work / RESULT).read_text(encoding="utf-8"))
        table = np.load(work / PROBABILITIES, allow_pickle=False)
    reasons = about.pop("reasons")
    answers = [Answer(None, r) if np.isnan(p).any() else Answer(p) for p, r in zip(table, reasons, strict=True)]
    return Outcome(answers, **about)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    job = arguments.work / JOB  # as the stage read them: the file may have been edited since
    params = check_params(json.loads(job.read_text(encoding="utf-8"))["params"], str(job))

    def body(ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
        import numpy as np

        from pipeline.evaluation.benchmark import TestSet, evaluate

        def progress(done: int, _total: int) -> None:
            pulse.beat("evaluating", done)
            if stop.signal:
                raise Interrupted(f"evaluation stopped by {stop.signal}; the same command starts it again")

        tests = TestSet.load(arguments.benchmark, params.evaluate_of(arguments.benchmark).split)
        model = layout.output_dir("finetune", arguments.benchmark)
        outcome = evaluate(params, arguments.benchmark, tests, model, ranks, progress=progress)
        if ranks.main:
            classes = params.benchmark(arguments.benchmark).data.classes
            empty = np.full(classes, np.nan, dtype=np.float32)
            table = np.stack([empty if a.probability is None else a.probability for a in outcome.answers])
            np.save(arguments.work / PROBABILITIES, table)
            about = {
                "reasons": [a.reason for a in outcome.answers],
                "clips": outcome.clips,
                "seconds": outcome.seconds,
                "peak_memory_gib": outcome.peak_memory_gib,
                "energy_wh": outcome.energy_wh,
                "cost": outcome.cost,
            }
            write_json(arguments.work / RESULT, about)

    return live(arguments.work, body, params.compute.device)


if __name__ == "__main__":
    sys.exit(main())
