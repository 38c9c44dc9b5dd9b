"""The whole of params.yaml, and what a benchmark's own values change in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.errors import InputError
from pipeline.params import names
from pipeline.params.benchmarks import BenchmarkParams
from pipeline.params.groups import (
    ClipParams,
    CompareParams,
    ComputeParams,
    EvaluateParams,
    FinetuneParams,
    Group,
    IngestParams,
    PreprocessParams,
    PretrainParams,
    Seed,
)


class Params(Group):
    """The whole of params.yaml."""

    recipe: Annotated[str, AfterValidator(names.recipe_name)]
    seed: Seed
    benchmarks: Annotated[dict[str, BenchmarkParams], Field(min_length=1, max_length=100)]
    clip: ClipParams
    ingest: IngestParams
    preprocess: PreprocessParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    compare: CompareParams
    compute: ComputeParams

    def finetune_of(self, benchmark: str) -> FinetuneParams:
        """The fine-tuning parameters of one benchmark: `finetune` with that benchmark's own values on top."""
        own = self.benchmark(benchmark).finetune.model_dump(exclude_none=True)
        return self.finetune.model_copy(update=own)

    def evaluate_of(self, benchmark: str) -> EvaluateParams:
        """The evaluation parameters of one benchmark."""
        own = self.benchmark(benchmark).evaluate.model_dump(exclude_none=True)
        return self.evaluate.model_copy(update=own)

    def compared_benchmarks(self) -> list[str]:
        """What a comparison fine-tunes and tests on: all benchmarks where `compare.benchmarks` is null.

        Raises:
            InputError: one that is not among the benchmarks. Only a comparison asks: the chain runs without.
        """
        for key in self.compare.benchmarks or []:
            self.benchmark(key)
        return self.compare.benchmarks or list(self.benchmarks)

    def benchmark(self, key: str) -> BenchmarkParams:
        if key not in self.benchmarks:
            raise InputError(
                f"benchmark {key!r} is not in params.yaml, which has: {', '.join(self.benchmarks)}. "
                f"Cure: {names.nearest(key, self.benchmarks)}"
            )
        return self.benchmarks[key]
