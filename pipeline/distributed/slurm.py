"""`everest launch`: an sbatch script for one training on several nodes of a SLURM cluster."""

from __future__ import annotations

import shlex

from pipeline.distributed.nodes import PORT
from pipeline.errors import InputError

#: [s] before SLURM ends the job, at which ranks are told to save (launch.GRACE_SECONDS is within it).
NOTICE_SECONDS = 180


def script(
    stage: str,
    benchmark: str | None,
    nodes: int,
    gpus: int,
    hours: float,
    partition: str | None = None,
    cpus_per_gpu: int = 12,
) -> str:
    """The script. Every node runs the stage (see pipeline.distributed.nodes); at its end DVC takes over the result.

    SLURM's SIGUSR1 before the end of the time, and a preemption, save at the next step boundary; the job then puts
    itself back into the queue and continues from there.

    Raises:
        InputError: no such training, or numbers out of bounds.
    """
    if (stage, benchmark is None) not in (("pretrain", True), ("finetune", False)):
        raise InputError(
            f"launch {stage} {benchmark or ''}: expected `pretrain`, or `finetune BENCHMARK`. Cure: name one of them."
        )
    for key, value, most in (("nodes", nodes, 10_000), ("gpus", gpus, 1024), ("hours", hours, 8760.0)):
        if not 0 < value <= most:
            raise InputError(f"{key} = {value:g}, expected above 0 and at most {most:g}. Cure: --{key} within that.")
    name = stage if benchmark is None else f"{stage}@{benchmark}"
    command = shlex.join(["everest", stage] + ([benchmark] if benchmark else []))
    minutes = max(1, round(hours * 60))
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=everest-{name.replace('@', '-')}",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={gpus}",
        f"#SBATCH --cpus-per-task={gpus * cpus_per_gpu}",
        f"#SBATCH --time={minutes}",
        f"#SBATCH --signal=B:USR1@{NOTICE_SECONDS}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        *([f"#SBATCH --partition={partition}"] if partition else []),
        "",
        "# Submit from the project's root, on a file system that all nodes share, with the environment activated and",
        "# what the stage depends on in place (`dvc repro` of the stages before it).",
        f"# params.yaml must say compute.ranks: {gpus} (ranks of each node).",
        "export PET_NNODES=$SLURM_NNODES",
        'export PET_MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"export PET_MASTER_PORT=$(({PORT} + SLURM_JOB_ID % 1000))",
        "",
        f"srun --kill-on-bad-exit=0 bash -c 'PET_NODE_RANK=$SLURM_NODEID exec {command}' &",
        "steps=$!",
        "stopped=",
        "# All nodes save at the same step boundary, whichever of them hears of it.",
        "trap 'stopped=1; scancel --signal=USR1 \"$SLURM_JOB_ID\"' USR1",
        "trap 'stopped=1' TERM  # a preemption: SLURM tells the nodes itself",
        'wait "$steps"; code=$?',
        'while kill -0 "$steps" 2>/dev/null; do wait "$steps"; code=$?; done',
        'if [ "$code" = 0 ]; then',
        f"    dvc commit --force {shlex.quote(name)}",
        'elif [ -n "$stopped" ]; then',
        '    scontrol requeue "$SLURM_JOB_ID"  # continues from the checkpoint that the signal left',
        "fi",
        'exit "$code"',
        "",
    ]
    return "\n".join(lines)
