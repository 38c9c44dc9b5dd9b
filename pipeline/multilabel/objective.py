"""The loss of videos with several classes each, and what a validation of them is scored by.

Shapes: P heads, B clips, V videos of the validation split, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.multilabel.labels import Truth
from pipeline.multilabel.precision import mean_average_precision


def sigmoid_loss(
    logits_BK: torch.Tensor, targets_BK: torch.Tensor, weight_K: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy of each class, mean over clips and classes.

    Args:
        targets_BK: in [0, 1], soft where clips are mixed or labels smoothed.
        weight_K: how many times a class counts where it is there (`positive_weights`).
    """
    return F.binary_cross_entropy_with_logits(logits_BK, targets_BK, pos_weight=weight_K)


class Validation:
    """Logits of all validation videos, gathered over batches and ranks: a ranking is scored as a whole.

    Args:
        truth_VK: which classes each video has, in the data set's order.
        heads: P, that are validated side by side.
    """

    def __init__(self, truth_VK: Truth, heads: int, device: torch.device) -> None:
        self._truth_VK = truth_VK
        self._logits_PVK = torch.zeros(heads, *truth_VK.shape, device=device)

    def add(self, logits_PBK: torch.Tensor, index_B: torch.Tensor) -> None:
        """The logits of some videos, by their row; each row is added once, by one rank."""
        self._logits_PVK[:, index_B.to(self._logits_PVK.device)] = logits_PBK.float()

    def scores(self, sum_: Callable[[torch.Tensor], torch.Tensor]) -> list[tuple[float, float]]:
        """(mean average precision, loss) of each head, the same on every rank.

        Args:
            sum_: adds a tensor over the ranks; a rank's table is 0 in the rows of the others.
        """
        logits_PVK = sum_(self._logits_PVK).cpu()
        truth_VK = torch.from_numpy(self._truth_VK).float()
        return [
            (mean_average_precision(one_VK.numpy(), self._truth_VK), float(sigmoid_loss(one_VK, truth_VK)))
            for one_VK in logits_PVK
        ]
