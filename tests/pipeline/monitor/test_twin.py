"""Where the loss pulls predictions: to the clip's own tokens, with every strategy, in every precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.autoencoder import EverestAutoencoder
from models.registry import architecture
from models.strategies import STRATEGIES
from pipeline.data.batch import Batch
from pipeline.monitor.twin import Pull, Twin

CLIPS, SIZE, FRAMES = 8, 64, 16
PRETRAINS = [name for name, strategy in STRATEGIES.items() if strategy.split is not None]
BUDGETS = [(name, None) for name in PRETRAINS] + [(n, 0.6) for n in PRETRAINS if STRATEGIES[n].reads_scores]


def pull(strategy: str, half: torch.dtype | None, score_share: float | None) -> Pull:
    arguments: dict[str, Any] = {
        "img_size": SIZE, "num_frames": FRAMES, "strategy": strategy, "keep_ratio": 0.5, "visible_ratio": 0.2,
        "score_share": score_share,
    }  # fmt: skip
    torch.manual_seed(0)
    twin = Twin(architecture("tiny", pretrain=True), arguments, SIZE, torch.device("cpu"), half)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(CLIPS, 3, 4, 6, 6, generator=generator)
    clip_BCTHW = F.interpolate(coarse, size=(FRAMES, SIZE, SIZE), mode="trilinear")
    clip_BCTHW += 0.02 * torch.randn(clip_BCTHW.shape, generator=generator)
    noise_BN = torch.rand(CLIPS, FRAMES // 2 * (SIZE // 16) ** 2, generator=generator)

    def inputs(batch: Batch) -> tuple[Tensor, Tensor]:
        return clip_BCTHW, noise_BN

    twin._inputs = inputs  # type: ignore[method-assign]
    found = twin.pull(None)  # type: ignore[arg-type]
    assert not twin.model.training
    assert all(parameter.grad is None for parameter in twin.model.parameters())
    return found


@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize(("strategy", "score_share"), BUDGETS)
def test_a_loss_pulls_predictions_to_the_tokens_of_their_own_clip(
    strategy: str, score_share: float | None, half: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = pull(strategy, half, score_share)
    assert well.own == pytest.approx(1, abs=1e-5)
    assert 0 < well.encoder < 1
    real = EverestAutoencoder.compare

    def of_another(self: EverestAutoencoder, clip_BCTHW: Tensor, *others: Any, **named: Any) -> Tensor:
        return real(self, clip_BCTHW.roll(1, 0), *others, **named)

    monkeypatch.setattr(EverestAutoencoder, "compare", of_another)
    assert abs(pull(strategy, half, score_share).own) < 0.2
