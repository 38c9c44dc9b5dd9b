"""Videos that show nearly the same pictures: copies in another size or codec, cuts of one source, scenes filmed twice.

Shapes: V videos, F signatures of pictures of one video at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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

    Pairs that others have joined already are not compared, so a set of equal videos takes little more than one of
    different ones: memory and time grow with the number of signatures.

    Args:
        signatures: of each video's pictures, 64 bits each; a video without any is like no other.
    """
    table_VF, valid_VF = _padded(signatures)
    root_V = np.arange(len(signatures))
    for pairs_M2 in _candidates(signatures):
        apart_M2 = pairs_M2[root_V[pairs_M2[:, 0]] != root_V[pairs_M2[:, 1]]]
        for start in range(0, len(apart_M2), CHUNK):
            part = apart_M2[start : start + CHUNK]
            root_V = _joined(root_V, part[_match(table_VF, valid_VF, part)])
    members: dict[int, list[int]] = {}
    for video, root in enumerate(root_V.tolist()):
        members.setdefault(root, []).append(video)
    return sorted((group for group in members.values() if len(group) > 1), key=lambda group: (-len(group), group))


def _joined(root_V: np.ndarray, pairs_M2: np.ndarray) -> np.ndarray:
    """The root of each video after these pairs are joined."""
    parents = root_V.tolist()

    def root(video: int) -> int:
        while parents[video] != video:
            parents[video] = parents[parents[video]]
            video = parents[video]
        return video

    for a, b in pairs_M2.tolist():
        parents[root(a)] = root(b)
    roots = np.array(parents, dtype=np.int64)
    while len(roots) and (roots != roots[roots]).any():
        roots = roots[roots]
    return roots


def _candidates(signatures: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    """Pairs of videos [M, 2], part by part, of which two pictures agree in 16 bits and are near each other."""
    owner = np.repeat(np.arange(len(signatures)), [len(each) for each in signatures])
    bits = np.array([one for each in signatures for one in each], dtype=np.uint64)
    for band in range(BANDS):
        key = (bits >> np.uint64(BAND_BITS * band)) & np.uint64((1 << BAND_BITS) - 1)
        order = np.lexsort((bits, key))
        key_O, bits_O, owner_O = key[order], bits[order], owner[order]
        for shift in range(1, WINDOW + 1):
            near = key_O[shift:] == key_O[:-shift]
            near &= np.bitwise_count(bits_O[shift:] ^ bits_O[:-shift]) <= NEAREST
            near &= owner_O[shift:] != owner_O[:-shift]
            # A pair as one number: numbers are made unique in a tenth of the time of rows.
            first, second = owner_O[shift:][near], owner_O[:-shift][near]
            codes = np.unique(np.minimum(first, second) * len(signatures) + np.maximum(first, second))
            if len(codes):
                yield np.stack(np.divmod(codes, len(signatures)), axis=1)


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
    matches: np.ndarray = near_MFF.any(axis=2).sum(axis=1) >= MATCHED * valid_VF[fewer].sum(axis=1)
    return matches
