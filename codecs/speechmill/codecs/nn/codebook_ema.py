"""Codebooks trained by moving averages (VQ-VAE, arXiv 1711.00937, appendix A.1)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch import distributed as dist

from speechmill.codecs.nn.kmeans import kmeans, nearest_centroids
from speechmill.codecs.nn.quantize import ResidualQuantizer

_EPS = 1e-5


class CodebookEMA(nn.Module):
    """Moves each codeword of a quantizer to the mean of the vectors that it should represent.

    The rows of a stage's separate search table move to the mean of the vectors assigned to them. A
    codeword whose moving count falls below `revive_below` is replaced by a random frame. Several
    workers share their counts, so their codebooks stay equal.
    """

    counts_KN: Tensor
    sums_KND: Tensor
    searched_sums_SND: Tensor

    def __init__(self, quantizer: ResidualQuantizer, decay: float, revive_below: float) -> None:
        super().__init__()
        self.decay = decay
        self.revive_below = revive_below
        codebooks_KND = quantizer.codebooks_KND
        self.register_buffer("counts_KN", torch.zeros(codebooks_KND.shape[:2]))
        self.register_buffer("sums_KND", torch.zeros_like(codebooks_KND))
        searched_SND = torch.zeros_like(codebooks_KND[: quantizer.num_searched])
        self.register_buffer("searched_sums_SND", searched_SND)
        self._observed: tuple[Tensor, Tensor, Tensor] | None = None

    def reset(self, quantizer: ResidualQuantizer, count_KN: Tensor) -> None:
        """Restart from codebooks; each codeword counts as the mean of `count_KN` vectors."""
        self.counts_KN.copy_(count_KN.clamp(min=self.revive_below))
        self.sums_KND.copy_(quantizer.codebooks_KND * self.counts_KN[..., None])
        for stage in range(quantizer.num_searched):
            self.searched_sums_SND[stage] = quantizer.searched_SND[stage]
            self.searched_sums_SND[stage] *= self.counts_KN[stage, :, None]

    def observe(self, codes_KM: Tensor, inputs_KMD: Tensor, targets_KMD: Tensor) -> None:
        """Store the codes, the vectors that were searched for, and those to represent."""
        self._observed = (codes_KM, inputs_KMD.detach(), targets_KMD.detach())

    @torch.no_grad()
    def update(self, quantizer: ResidualQuantizer) -> None:
        """Move the codebooks by the last observation."""
        assert self._observed is not None
        count_KN = count_codes(self._observed[0], self.counts_KN.shape[1])
        sum_over_workers(count_KN)
        self.counts_KN.lerp_(count_KN, 1 - self.decay)
        dead_KN = (self.counts_KN < self.revive_below).cpu()  # the only wait for a GPU
        for stage, (codes_M, inputs_MD, targets_MD) in enumerate(zip(*self._observed, strict=True)):
            own_table = stage < quantizer.num_searched
            self._add(self.sums_KND[stage], codes_M, targets_MD)
            if own_table:
                self._add(self.searched_sums_SND[stage], codes_M, inputs_MD)
            dead_E = torch.nonzero(dead_KN[stage])[:, 0].to(targets_MD.device, non_blocking=True)
            self._revive(stage, dead_E, inputs_MD if own_table else None, targets_MD)
            divisor_N1 = self.counts_KN[stage].clamp(min=_EPS)[:, None]
            quantizer.codebooks_KND[stage] = self.sums_KND[stage] / divisor_N1
            if own_table:
                quantizer.searched_SND[stage] = self.searched_sums_SND[stage] / divisor_N1
        self._observed = None

    def _add(self, sums_ND: Tensor, codes_M: Tensor, vectors_MD: Tensor) -> None:
        sum_ND = torch.zeros_like(sums_ND).index_add_(0, codes_M, vectors_MD)
        sum_over_workers(sum_ND)
        sums_ND.lerp_(sum_ND, 1 - self.decay)

    def _revive(
        self, stage: int, dead_E: Tensor, inputs_MD: Tensor | None, targets_MD: Tensor
    ) -> None:
        if not len(dead_E):
            return
        frame_E = torch.randint(len(targets_MD), dead_E.shape, device=dead_E.device)
        self.counts_KN[stage, dead_E] = self.revive_below
        words_ED = targets_MD[frame_E]
        broadcast_from_first(words_ED)
        self.sums_KND[stage, dead_E] = words_ED * self.revive_below
        if inputs_MD is not None:
            words_ED = inputs_MD[frame_E]
            broadcast_from_first(words_ED)
            self.searched_sums_SND[stage, dead_E] = words_ED * self.revive_below


class KMeansStart:
    """Collects frames of the first batches to initialise a quantizer by k-means."""

    def __init__(self, num_frames: int, iterations: int) -> None:
        self.num_frames = max(1, num_frames)
        self.iterations = iterations
        self._batches: list[tuple[Tensor, ...]] = []

    @property
    def missing(self) -> int:
        """Number of frames still to collect."""
        return max(0, self.num_frames - sum(len(batch[0]) for batch in self._batches))

    def initialize_from(
        self,
        quantizer: ResidualQuantizer,
        *frames: Tensor,
        prepare: Callable[..., Tensor] = lambda x_MD: x_MD,
    ) -> Tensor | None:
        """Collect a batch; with the last one, set the codebooks and return its counts_KN.

        `prepare` takes the same tensors as this method, of all batches, and returns the vectors
        that the codebooks should represent.
        """
        self._batches.append(frames)
        if self.missing:
            return None
        collected = [torch.cat(parts) for parts in zip(*self._batches, strict=True)]
        self._batches.clear()
        share = len(frames[0]) / len(collected[0])
        return share * initialize_by_kmeans(quantizer, prepare(*collected), self.iterations)


@torch.no_grad()
def initialize_by_kmeans(quantizer: ResidualQuantizer, x_MD: Tensor, iterations: int) -> Tensor:
    """Set each stage to the k-means of the residual before it; return their counts_KN."""
    counts = []
    for codebook_ND in quantizer.codebooks_KND:
        codebook_ND.copy_(kmeans(x_MD, len(codebook_ND), iterations))
        codes_M = nearest_centroids(x_MD, codebook_ND)
        counts.append(torch.bincount(codes_M, minlength=len(codebook_ND)))
        x_MD = x_MD - codebook_ND[codes_M]
    counts_KN = torch.stack(counts).float()
    broadcast_from_first(quantizer.codebooks_KND, counts_KN)
    return counts_KN


def count_codes(codes_KM: Tensor, size: int) -> Tensor:
    """Return counts_KN, how often each of `size` codes occurs in a row; a GPU is not waited for."""
    counts_KN = torch.zeros(len(codes_KM), size, device=codes_KM.device)
    return counts_KN.scatter_add_(1, codes_KM, torch.ones_like(codes_KM, dtype=counts_KN.dtype))


def broadcast_from_first(*tensors: Tensor) -> None:
    """Replace the tensors by those of rank 0, if there are several workers."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def sum_over_workers(tensor: Tensor) -> None:
    """Replace a tensor by the sum over all workers, if there are several."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
