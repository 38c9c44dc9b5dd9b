"""Videos that show nearly the same pictures: copies in another size or codec, cuts of one source, scenes filmed twice.

Shapes: V videos, F signatures of pictures of one video at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: [bit] Of 64, that two pictures' signatures may differ by: for one pair that makes two videos worth comparing, and for
#: their other pictures. Of real clips, pictures of one scene were 0 to 16 apart, others 18 and more; two at random are
#: 32 apart, with deviation 4.
NEAREST, NEAR = 8, 12
#: Share of the pictures of the video with fewer of them that must have one near them in the other.
MATCHED = 0.6
#: Signatures that each is compared with, of those that have the same 16 bits; keeps a set of equal videos linear.
WINDOW = 32
BANDS, BAND_BITS = 4, 16
CHUNK = 1 << 16


def similar_groups(signatures: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups of two or more videos that are similar, directly or by way of others; ascending, the largest first.

    Args:
        signatures: of each video's pictures, 64 bits each; a video without any is like no other.
    """
    table_VF, valid_VF = _padded(signatures)
    parents = list(range(len(signatures)))

    def root(video: int) -> int:
        while parents[video] != video:
            parents[video] = parents[parents[video]]
            video = parents[video]
        return video

    pairs = _candidates(signatures)
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        for a, b in part[_match(table_VF, valid_VF, part)].tolist():
            parents[root(a)] = root(b)
    members: dict[int, list[int]] = {}
    for video in range(len(signatures)):
        members.setdefault(root(video), []).append(video)
    return sorted((group for group in members.values() if len(group) > 1), key=lambda group: (-len(group), group))


def _candidates(signatures: Sequence[Sequence[int]]) -> np.ndarray:
    """Pairs of videos [M, 2], each once, of which two pictures agree in 16 bits and are near each other."""
    owner = np.repeat(np.arange(len(signatures)), [len(each) for each in signatures])
    bits = np.array([one for each in signatures for one in each], dtype=np.uint64)
    found = []
    for band in range(BANDS):
        key = (bits >> np.uint64(BAND_BITS * band)) & np.uint64((1 << BAND_BITS) - 1)
        order = np.lexsort((bits, key))
        key_O, bits_O, owner_O = key[order], bits[order], owner[order]
        for shift in range(1, WINDOW + 1):
            near = key_O[shift:] == key_O[:-shift]
            near &= np.bitwise_count(bits_O[shift:] ^ bits_O[:-shift]) <= NEAREST
            near &= owner_O[shift:] != owner_O[:-shift]
            found.append(np.stack([owner_O[shift:][near], owner_O[:-shift][near]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1) if found else np.zeros((0, 2), np.int64)
    unique: np.ndarray = np.unique(pairs, axis=0)
    return unique


def _padded(signatures: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Signatures [V, F], and which of them are real."""
    width = max((len(each) for each in signatures), default=0)
    table = np.zeros((len(signatures), width), np.uint64)
    valid = np.zeros(table.shape, bool)
    for row, each in enumerate(signatures):
        table[row, : len(each)] = np.array(each, dtype=np.uint64)
        valid[row, : len(each)] = True
    return table, valid


def _match(table_VF: np.ndarray, valid_VF: np.ndarray, pairs_M2: np.ndarray) -> np.ndarray:
    """Which pairs are similar [M]."""
    first, second = pairs_M2[:, 0], pairs_M2[:, 1]
    swap = valid_VF[first].sum(1) > valid_VF[second].sum(1)
    fewer, more = np.where(swap, second, first), np.where(swap, first, second)
    near_MFF = np.bitwise_count(table_VF[fewer][:, :, None] ^ table_VF[more][:, None, :]) <= NEAR
    near_MFF &= valid_VF[fewer][:, :, None] & valid_VF[more][:, None, :]
    found: np.ndarray = near_MFF.any(axis=2).sum(axis=1) >= MATCHED * valid_VF[fewer].sum(axis=1)
    return found
