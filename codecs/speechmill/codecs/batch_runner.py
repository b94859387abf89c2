"""Compute rows of different length: in one masked batch, or each at its own length.

Row by row, the result of a clip is the same to the last bit in every batch; in a masked batch it
may differ by rounding. On a CPU one row keeps all cores busy and padding costs time, so row by row
is the default there.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.nn.kernels import triton_works
from speechmill.codecs.nn.masks import mask_padding, pad_or_trim
from speechmill.codecs.precision import autocast

RowT = TypeVar("RowT")
Code = Callable[[Tensor, Tensor | None], Tensor]

_MAX_LAYER_KINDS = 256  # PyTorch's own limit is eight, after which it stops compiling


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """How one codec computes the rows of a batch."""

    device: torch.device
    precision: str
    row_by_row: bool
    compiled: bool = False

    @classmethod
    def on(
        cls,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
        *,
        compiled: bool = False,
    ) -> "BatchRunner":
        """Return the faster way for the device, unless `row_by_row` chooses one."""
        if row_by_row is None:
            row_by_row = device.type == "cpu"
        if device.type == "cuda":
            triton_works()  # now, because compiling or capturing cannot find it out
        return cls(device, precision, row_by_row, compiled)

    @property
    def packs_weights(self) -> bool:
        """Whether to store matrices in the order in which a CPU's kernels read them."""
        return self.device.type == "cpu" and self.precision == "fp32" and not self.compiled

    def compile_layers(self, network: nn.Module, *kinds: type[nn.Module]) -> None:
        """If `compiled`, compile each layer of these classes, once for all batches.

        Layers of one class and width share their code, so that the number of layers hardly matters.
        """
        if self.compiled:
            for layer in network.modules():
                if isinstance(layer, kinds):
                    layer.compile(dynamic=True)

    def groups(self, rows: list[RowT]) -> list[list[RowT]]:
        """Return which rows to compute together: each on its own, or all."""
        if self.row_by_row:
            return [[row] for row in rows]
        return [rows] if rows else []

    def unequal_lengths(self, lengths: list[int]) -> Tensor | None:
        """Return the lengths, or None if all are equal, so that nothing needs a mask."""
        if min(lengths) == max(lengths):
            return None
        return torch.tensor(lengths, device=self.device)

    def encode(
        self, code: Code, audio_BT: Tensor, num_samples: list[int], info: CodecInfo
    ) -> Tensor:
        """Return codes_BKF, zero after each row's frames.

        `code` takes audio that is zero after each row's end, and the rows' lengths on the device,
        or None if all rows are full. Its codes after a row's end may be anything.
        """
        frames = [info.num_frames(samples) for samples in num_samples]
        if not self.row_by_row:
            lengths_B = torch.tensor(num_samples, device=self.device)
            codes_BKF = self.encode_padded(code, audio_BT.to(self.device), lengths_B, info)
            return codes_BKF[..., : max(frames)]
        shape = (len(audio_BT), info.num_codebooks, max(frames))
        codes_BKF = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for row, (samples, count) in enumerate(zip(num_samples, frames, strict=True)):
            if count:
                with self._computing():
                    codes_1KF = code(audio_BT[row : row + 1, :samples].to(self.device), None)
                codes_BKF[row, :, :count] = codes_1KF[0, :, :count]
        return codes_BKF

    def encode_padded(
        self, code: Code, audio_BT: Tensor, num_samples_B: Tensor, info: CodecInfo
    ) -> Tensor:
        """Return codes_BKF of as many frames as a full row has, zero after each row's frames.

        Audio and lengths are on the device, and neither is read by the host: a CUDA graph can hold
        it. The kernels depend on the shape alone, because masks are applied even if rows are full.
        """
        frames_B = num_frames(info, num_samples_B)
        width = max(audio_BT.shape[1], info.shortest_clip)
        audio_BT = mask_padding(pad_or_trim(audio_BT, width), num_samples_B)
        with self._computing():
            codes_BKF = code(audio_BT, num_samples_B.clamp(min=info.shortest_clip))
        return mask_padding(codes_BKF[..., : info.num_frames(width)], frames_B)

    def compute(
        self,
        network: Callable[[Tensor, Tensor | None], Tensor],
        x: Tensor,
        lengths: list[int],
        out_length: Callable[[int], int],
    ) -> Tensor:
        """Return the network's output for `x`, of shape (B, ..., T), zero after each row's end.

        `network` takes a batch and the rows' lengths, or None if all are full.
        """
        x = x[..., : max(lengths)].to(self.device)
        with autocast(self.precision, self.device):
            if not self.row_by_row:
                return self._masked(network, x, lengths, out_length)
            rows = zip(x[:, None], lengths, strict=True)
            return _stack([self._masked(network, row[..., :n], [n], out_length) for row, n in rows])

    def _masked(
        self,
        network: Callable[[Tensor, Tensor | None], Tensor],
        x: Tensor,
        lengths: list[int],
        out_length: Callable[[int], int],
    ) -> Tensor:
        """Return the network's output for one group of rows, masked only if lengths differ."""
        lengths_B = self.unequal_lengths(lengths)
        if lengths_B is None:
            return network(x, None)
        frames = [out_length(length) for length in lengths]
        y = network(mask_padding(x, lengths_B), lengths_B)[..., : max(frames)]
        return mask_padding(y, torch.tensor(frames, device=self.device))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute in the precision of the codec; compile as many kinds of layers as it has."""
        limit: AbstractContextManager[Any] = nullcontext()
        if self.compiled:
            limit = torch._dynamo.config.patch(recompile_limit=_MAX_LAYER_KINDS)
        with autocast(self.precision, self.device), limit:
            yield


def num_frames(info: CodecInfo, num_samples_B: Tensor) -> Tensor:
    """Return `info.num_frames` of each row, computed on the rows' device."""
    frames_B = (num_samples_B + info.frame_offset) // info.hop_length
    return frames_B.clamp(min=info.min_frames)


def _stack(rows: list[Tensor]) -> Tensor:
    """Return the rows, each of shape (1, ..., T), in one tensor, zero after their ends."""
    out = rows[0].new_zeros(len(rows), *rows[0].shape[1:-1], max(row.shape[-1] for row in rows))
    for place, row in zip(out, rows, strict=True):
        place[..., : row.shape[-1]] = row[0]
    return out
