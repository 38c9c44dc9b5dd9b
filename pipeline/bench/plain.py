"""A plain eager EVEREST, as one writes it first: the yardstick that `everest bench step` measures against.

A 3-D convolution, attention as two products and a softmax, boolean masks, targets normalised for every token.
It computes the same loss as `models.autoencoder` for the same weights and noise (tested); only the way is
different.

Shapes: B clips, N tokens, D width, V visible, R reconstructed, P values of a tubelet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.registry import SIZES
from models.selection import Grid
from models.strategies import token_budget
from models.tokens import IMAGENET_MEAN, IMAGENET_STD, sinusoid_table


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x_BND: Tensor) -> Tensor:
        batch, tokens, width = x_BND.shape
        qkv = self.qkv(x_BND) + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = ((q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class PlainMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x_BND)))


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = PlainAttention(width, heads)
        self.mlp = PlainMlp(width)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class PlainEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (2, 16, 16), stride=(2, 16, 16))

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        return self.proj(clip_BCTHW).flatten(2).transpose(1, 2)


class PlainEncoder(nn.Module):
    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PlainEmbedding(width)
        self.blocks = nn.Sequential(*(PlainBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)


class PlainDecoder(nn.Module):
    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(PlainBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 1536)


class PlainAutoencoder(nn.Module):
    """Names of weights are the official ones, so `models.convert.to_official` fills it."""

    def __init__(self, size: str, grid: Grid, keep_ratio: float, visible_ratio: float, decoder_depth: int) -> None:
        super().__init__()
        s = SIZES[size]
        self.grid, self.budget = grid, token_budget("everest", grid, keep_ratio, visible_ratio)
        self.encoder = PlainEncoder(s.embed_dim, s.depth, s.num_heads)
        self.encoder_to_decoder = nn.Linear(s.embed_dim, s.decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, s.decoder_embed_dim))
        self.decoder = PlainDecoder(s.decoder_embed_dim, decoder_depth, s.decoder_num_heads)
        self.positions: Tensor
        self.decoder_positions: Tensor
        self.register_buffer("positions", sinusoid_table(grid.tokens, s.embed_dim), persistent=False)
        self.register_buffer("decoder_positions", sinusoid_table(grid.tokens, s.decoder_embed_dim), persistent=False)

    def forward(self, clip_BCTHW: Tensor, noise_BN: Tensor | None = None) -> Tensor:
        x_BND = self.encoder.patch_embed(clip_BCTHW)
        if noise_BN is None:
            noise_BN = torch.rand(x_BND.shape[:2], device=x_BND.device)
        visible_BN, hidden_BN = self.masks(x_BND.detach().float(), noise_BN)
        batch, _, width = x_BND.shape
        shown = (x_BND + self.positions)[visible_BN].reshape(batch, -1, width)
        latent = self.encoder_to_decoder(self.encoder.norm(self.encoder.blocks(shown)))
        positions = self.decoder_positions.expand(batch, -1, -1)
        y = torch.cat(
            [
                latent + positions[visible_BN].reshape(latent.shape),
                self.mask_token + positions[hidden_BN].reshape(batch, -1, latent.shape[2]),
            ],
            dim=1,
        )
        y = self.decoder.norm(self.decoder.blocks(y)[:, latent.shape[1] :])
        prediction = self.decoder.head(y)
        target = self.targets(clip_BCTHW)[hidden_BN].reshape(prediction.shape)
        return nn.functional.mse_loss(prediction.float(), target)

    def masks(self, x_BND: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean [B, N]: True = visible, True = to reconstruct."""
        x_BSLD = x_BND.unflatten(1, (self.grid.slots, -1))
        distance = (x_BSLD[:, 1:] - x_BSLD[:, :-1]).norm(dim=-1)
        scores = torch.cat([distance[:, :1], distance], dim=1).flatten(1)
        kept = scores.topk(sum(self.budget), dim=1).indices
        order = kept.gather(1, noise_BN.gather(1, kept).argsort(dim=1))
        empty = torch.zeros_like(scores, dtype=torch.bool)
        visible = empty.scatter(1, order[:, : self.budget.visible], True)
        return visible, empty.scatter(1, order[:, self.budget.visible :], True)

    def targets(self, clip_BCTHW: Tensor) -> Tensor:
        mean, std = (clip_BCTHW.new_tensor(value).view(1, 3, 1, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = clip_BCTHW * std + mean
        s, h, w = self.grid
        cells = pixels.reshape(-1, 3, s, 2, h, 16, w, 16).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(-1, s * h * w, 512, 3)
        normal = (cells - cells.mean(2, keepdim=True)) / (cells.var(2, unbiased=True, keepdim=True).sqrt() + 1e-6)
        return normal.flatten(2)
