"""What is taken of an encoder's tokens as a clip's features.

Shapes: B clips, D width, S slots, N tokens of a clip, K kept ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from models.backbone import Backbone

#: The clip's pooled features [D], one mean for each time slot [S, D], or every token [N, D].
Pool = Literal["clip", "slots", "tokens"]


def features(network: Backbone, clip_BCTHW: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Features of normalised clips, [B, D], [B, S, D] or [B, N, D], and which tokens were computed, bool [B, N].

    A classifier's pooled features are those that its head sees. A slot's are the mean of its tokens, 0 where none is
    kept; a token that is dropped is 0.
    """
    from models.backbone import dense, kept_mask

    kept = network.embed_kept(clip_BCTHW)
    tokens_BKD = network.encoder_norm()(network.encoder_blocks()(kept.tokens_BKD, kept.real))
    mask_BN = kept_mask(kept)
    if pool == "clip":
        return network.forward_head(tokens_BKD, pre_logits=True, valid_BK=kept.real, kept=kept), mask_BN
    tokens_BND = dense(kept.padded(tokens_BKD), kept, "NLC")
    if pool == "tokens":
        return tokens_BND, mask_BN
    sums_BSD = tokens_BND.unflatten(1, (kept.grid.slots, -1)).sum(2)
    counts_BS1 = mask_BN.unflatten(1, (kept.grid.slots, -1)).sum(2, keepdim=True)
    return sums_BSD / counts_BS1.clamp(min=1), mask_BN
