"""A comparison's summary as `everest compare` writes one: any strategies and benchmarks, numbers from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.report.comparison import Summary


def comparison_summary(strategies: Sequence[str], benchmarks: Sequence[str], seeds: Sequence[int] = (0, 1)) -> Summary:
    """Scores rise with the strategy's place; the last one is from scratch, without pre-training."""
    draw = np.random.default_rng(7)
    results, differences, curves = [], [], {}
    for benchmark in benchmarks:
        top1 = {name: 20 + 3 * place + draw.random() for place, name in enumerate(strategies)}
        curves[benchmark] = {
            name: [(10 * step, value * step / 5) for step in range(1, 6)] for name, value in top1.items()
        }
        trivial = {"model": "one frame", "top1": 31.25, "top1_ci_low": 28.0, "top1_ci_high": 35.0}
        results += [
            {
                "benchmark": benchmark, "strategy": name, "seeds": len(seeds), "top1": value,
                "top1_deviation": 1.26 if len(seeds) > 1 else None, "top1_ci_low": value - 4.04,
                "top1_ci_high": value + 4.55, "videos": 384, "finetune_seconds": 61.5, "chance": 12.5,
                "trivial": trivial, "test_gmacs_per_clip": 0.0571, "test_clips_per_second": 48.96,
            }
            for name, value in top1.items()
        ]  # fmt: skip
        differences += [
            {
                "benchmark": benchmark, "a": strategies[0], "b": name, "difference": top1[strategies[0]] - top1[name],
                "low": top1[strategies[0]] - top1[name] - 2, "high": top1[strategies[0]] - top1[name] + 2,
                "seeds": len(seeds),
            }
            for name in strategies[1:]
        ]  # fmt: skip
    costs = [
        {
            "strategy": name, "epochs": 24 * (name != strategies[-1]), "gmacs_per_clip": 0.0383 + 0.004 * place,
            "gmacs_per_corpus_clip": 0.92, "tmacs_total": 1.884, "tokens_per_clip": 64.0, "peak_memory_gib": 1.65,
            "clips_per_second": 583.21, "mfu": None, "energy_wh": None, "wall_seconds": 84.2 + 7 * place,
        }
        for place, name in enumerate(strategies)
    ]  # fmt: skip
    summary: dict[str, object] = {
        "recipe": "demo", "equal": "multiply-adds", "seeds": list(seeds), "results": results,
        "differences": differences, "costs": costs, "curves": curves, "published": [], "pictures": [],
        "trainings": [
            {"strategy": name, "seed": seed, "folder": f"training-{place}-{seed}", "epochs": 24}
            for place, name in enumerate(strategies) for seed in seeds
        ],
        "data": [
            {"benchmark": name, "train": 1024, "val": 128, "test": 384, "quarantined": 0, "reasons": {},
             "manifest_hash": "ab" * 16, "cache_hash": "cd" * 16} for name in benchmarks
        ],
        "versions": {"git.commit": "e" * 40, "git.dirty": "false", "torch": "2.15.0"},
        "sentences": ["At equal pre-training multiply-adds, a is better than b_c: +1.0 points."],
    }  # fmt: skip
    return summary  # type: ignore[return-value]
