"""Which keys a query attends to, and their biases by distance, once for all layers."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn

from speechmill.codecs.nn.query_blocks import query_blocks


@dataclass(frozen=True, slots=True)
class Attended:
    """The keys of each query: the `window` (None: all) before end_BQ (None: all), and biases.

    Of end_BQ both dimensions may be 1. `table_HN` has a bias per distance, first that of the first
    key from the last query. `whole` keeps the dense form if that is small: every layer uses it.
    """

    queries: int
    keys: int
    end_BQ: Tensor | None
    window: int | None
    table_HN: Tensor | None
    whole: tuple[Tensor | None, Tensor | None] | None = None

    def blocks(self) -> list[slice]:
        return query_blocks(self.queries)

    def dense(self, block: slice) -> tuple[Tensor | None, Tensor | None]:
        """Return bias_HQK and masked_BQK (B and Q may be 1; True: not attended to) of a block."""
        if self.whole is not None:
            return self.whole
        return self._bias(block), self._masked(block)

    def _bias(self, block: slice) -> Tensor | None:
        if self.table_HN is None:
            return None
        first, last = self.queries - block.stop, self.queries - block.start + self.keys - 1
        return self.table_HN[:, first:last].unfold(-1, self.keys, 1).flip(1)

    def _masked(self, block: slice) -> Tensor | None:
        if self.end_BQ is None:
            return None
        end_BQ1 = (self.end_BQ if self.end_BQ.shape[1] == 1 else self.end_BQ[:, block])[..., None]
        key_K = torch.arange(self.keys, device=end_BQ1.device)
        masked_BQK = key_K >= end_BQ1
        return masked_BQK if self.window is None else masked_BQK | (key_K < end_BQ1 - self.window)


def relative_biases(
    embedding: nn.Embedding, max_distance: int, queries: int, past: int = 0
) -> Tensor:
    """Return table_HN of the distances of keys from queries; `past` keys precede the queries."""
    distance_N = torch.arange(1 - queries - past, queries, device=embedding.weight.device)
    bucket_N = _bucket(distance_N, embedding.num_embeddings, max_distance)
    table_HN: Tensor = embedding(bucket_N).T.contiguous()  # dense biases then have contiguous rows
    return table_HN


def _bucket(distance_N: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return a bucket per signed distance: linear, then logarithmic (arXiv 1910.10683, 2.1)."""
    half = num_buckets // 2
    exact = half // 2
    far_N = distance_N.abs()
    log_N = torch.log(far_N.float() / exact) / log(max_distance / exact)
    log_N = (log_N * (half - exact) + exact).clamp(max=half - 1).long()
    return torch.where(far_N < exact, far_N, log_N) + half * (distance_N > 0)
