"""CUDA graphs: all kernels of a batch of one shape, launched at once.

A network of many small kernels keeps the host busy longer than the GPU, above all while other
threads run Python. A graph is launched in microseconds, whatever it holds.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor, Tensor], Tensor]


class Captured(Protocol):
    """A call that was captured: a replay computes it again, from the same memory to the same."""

    codes_BKF: Tensor

    def replay(self) -> None: ...


class CudaGraph:
    """A call as a CUDA graph; it is not computed before the first replay.

    Graphs that share a pool of memory overwrite each other's results.
    """

    def __init__(self, compute: Callable[[], Tensor], pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Other threads go on to copy batches and to allocate meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.codes_BKF = compute()

    def replay(self) -> None:
        self._graph.replay()


class GraphedEncoder:
    """Encodes batches on a GPU, with a graph for each shape.

    A new shape is first computed as usual, so that libraries have chosen their kernels when it is
    captured; that result is dropped, so that all codes of a shape come from its graph. If it cannot
    be captured, the shape is always computed as usual.
    """

    def __init__(
        self,
        encode_padded: Encode,
        device: torch.device,
        capacity: int,
        capture: Callable[[Callable[[], Tensor]], Captured] | None = None,
    ) -> None:
        """`capacity` is the number of samples of the largest batch, with padding."""
        self._encode = encode_padded
        self._capture = capture or _in_one_pool()
        self._audio_N = torch.zeros(capacity, device=device)
        self._lengths: dict[tuple[int, ...], Tensor] = {}
        self._graphs: dict[tuple[int, ...], Captured | None] = {}

    @torch.inference_mode()
    def __call__(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF, which the next call may overwrite; all tensors are on the device."""
        shape = tuple(audio_BT.shape)
        if shape not in self._graphs:
            self._encode(audio_BT, num_samples_B)
            self._lengths[shape] = num_samples_B.clone()
            self._graphs[shape] = self._captured(shape)
        graph = self._graphs[shape]
        if graph is None:
            return self._encode(audio_BT, num_samples_B)
        self._audio(shape).copy_(audio_BT)
        self._lengths[shape].copy_(num_samples_B)
        graph.replay()
        return graph.codes_BKF

    def _audio(self, shape: tuple[int, ...]) -> Tensor:
        return self._audio_N[: shape[0] * shape[1]].view(shape)

    def _captured(self, shape: tuple[int, ...]) -> Captured | None:
        audio_BT, lengths_B = self._audio(shape), self._lengths[shape]
        try:
            return self._capture(lambda: self._encode(audio_BT, lengths_B))
        except RuntimeError as error:
            if not any(graph is None for graph in self._graphs.values()):
                logger.warning(
                    "some batches are computed without CUDA graphs, which is slower: %s",
                    str(error).splitlines()[0],
                )
            return None


def _in_one_pool() -> Callable[[Callable[[], Tensor]], Captured]:
    pool = torch.cuda.graph_pool_handle()
    return lambda compute: CudaGraph(compute, pool)
