"""The two halves of the autoencoder: an encoder of visible tokens, a small decoder of those to reconstruct.

Shapes: B clips, V visible, R reconstructed, K = V + R, P values of a tubelet, D encoder width, E decoder width.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.vit import Blocks, LayerNorm, Positions, Real, TubeletEmbedding


class Encoder(nn.Module):
    """Tubelet embedding, fixed positions, blocks, norm."""

    def __init__(self, values: int, tokens: int, width: int, depth: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.patch_embed = TubeletEmbedding(values, width)
        self.positions = Positions(tokens, width)
        self.blocks = Blocks(width, depth, heads, drop_path=drop_path)
        self.norm: nn.Module = LayerNorm(width)

    def forward(self, tokens_BVD: Tensor, valid_BV: Real = None) -> Tensor:
        latent_BVD: Tensor = self.norm(self.blocks(tokens_BVD, valid_BV))
        return latent_BVD


class Decoder(nn.Module):
    """Blocks over visible and mask tokens; only those at `predicted` go through the head."""

    def __init__(self, values: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = Blocks(width, depth, heads)
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, values)

    def forward(self, tokens_BKE: Tensor, predicted: slice | Tensor, valid_BK: Real = None) -> Tensor:
        prediction_BRP: Tensor = self.head(self.norm(self.blocks(tokens_BKE, valid_BK)[:, predicted]))
        return prediction_BRP
