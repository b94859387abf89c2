"""Relative positions whose weight each query decides (WavLM, arXiv 2110.13900, section III-B)."""

from math import log

import torch
from torch import Tensor, nn


def position_bias(
    embedding: nn.Embedding, max_distance: int, queries: int, seen: int = 0
) -> Tensor:
    """Return bias_HQK of a query and of a key that is `seen` frames or less before the first.

    It depends on their distance alone: one row per distance is looked up, then slid.
    """
    distance_N = torch.arange(1 - queries - seen, queries, device=embedding.weight.device)
    bucket_N = _bucket(distance_N, embedding.num_embeddings, max_distance)
    table_HN: Tensor = embedding(bucket_N).T
    return table_HN.unfold(-1, queries + seen, 1).flip(1)


def bias_gate(x_BHFE: Tensor, linear: nn.Linear, const_1H11: Tensor) -> Tensor:
    """Return gate_BHF1 from each head's part of the input of attention."""
    sums_BHF2 = linear(x_BHFE).unflatten(-1, (2, 4)).sum(-1)
    one_BHF1, two_BHF1 = torch.sigmoid(sums_BHF2).chunk(2, dim=-1)
    return one_BHF1 * (two_BHF1 * const_1H11 - 1) + 2


def _bucket(distance_N: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return a bucket per signed distance: linear, then logarithmic (arXiv 1910.10683, 2.1)."""
    half = num_buckets // 2
    exact = half // 2
    far_N = distance_N.abs()
    log_N = torch.log(far_N.float() / exact) / log(max_distance / exact)
    log_N = (log_N * (half - exact) + exact).clamp(max=half - 1).long()
    return torch.where(far_N < exact, far_N, log_N) + half * (distance_N > 0)
