"""k nearest neighbours by cosine similarity, with weighted votes (Wu et al. 2018, arXiv:1805.01978, sec. 3.4; DINO).

Letters: Q queries, N images in the bank, D values of a feature, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07
_QUERIES, _BANK = 1024, 65_536  # so many similarities exist at once: 256 MiB, whatever Q and N are


def nearest(queries: Tensor, bank: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` nearest of the bank: (cosine similarity f32 [Q, num], ids i64 [Q, num]), the nearest first.

    queries: f32 [Q, D] and bank: f32 [N, D], of any length, on one device. Raises ValueError unless num is in 1..N.
    """
    if not 1 <= num <= len(bank):
        raise ValueError(f"the number of neighbours must lie in 1..{len(bank)}, the size of the bank, got {num}")
    bank = F.normalize(bank, dim=1)
    found = [_nearest(F.normalize(queries[block], dim=1), bank, num) for block in _blocks(len(queries))]
    return torch.cat([values for values, _ in found]), torch.cat([ids for _, ids in found])


def vote(similarity: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Each neighbour votes for its class with exp(similarity / 0.07): f32 [Q, K] and i64 [Q, K] -> f32 [Q, classes]."""
    votes = similarity.new_zeros(len(similarity), num_classes)
    return votes.scatter_add_(1, labels, (similarity / TEMPERATURE).exp())


def knn_top1(
    queries: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, num_classes: int, ks: Sequence[int]
) -> dict[int, float]:
    """Accuracy for every k of `ks` at the cost of the greatest. labels: i64 [Q], bank_labels: i64 [N].

    Raises ValueError where a k is not in 1..N.
    """
    similarity, ids = nearest(queries, bank, max(ks))  # [Q, K]
    hits = torch.zeros(len(ks), dtype=torch.long, device=queries.device)
    for block in _blocks(len(queries)):
        near, theirs = similarity[block], bank_labels[ids[block]]  # [q, K]
        for i, k in enumerate(ks):
            hits[i] += (vote(near[:, :k], theirs[:, :k], num_classes).argmax(dim=1) == labels[block]).sum()
    return {k: count / len(queries) for k, count in zip(ks, hits.tolist(), strict=True)}


def _blocks(num: int) -> list[slice]:
    return [slice(start, start + _QUERIES) for start in range(0, num, _QUERIES)]


def _nearest(queries: Tensor, bank: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """`nearest` for one block of queries; both sides are of unit length."""
    values = queries.new_empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(bank), _BANK):
        block = queries @ bank[start : start + _BANK].T  # [q, n]
        top, places = block.topk(min(num, block.shape[1]), dim=1)
        values, order = torch.cat([values, top], dim=1).topk(min(num, values.shape[1] + top.shape[1]), dim=1)
        ids = torch.cat([ids, places + start], dim=1).gather(1, order)
    return values, ids
