"""Rows of different length through a network: in one masked batch, or each at its own length.

Row by row the result of a clip is the same to the last bit, whatever shares its batch; masked it
is so but for rounding. On a CPU one row fills the cores and row by row spends nothing on padding,
so it is the default there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.precision import autocast

ComputeT = TypeVar("ComputeT", bound=Callable[..., Tensor])

_STEPS = (
    4  # sizes per octave that are compiled for: a ninth more columns than asked for, on average
)
_SMALLEST = 8_192  # samples; below, all clips are of one size
_LARGEST = 1 << 30
_MAX_SIZES = 256  # PyTorch gives up on compiling after eight unless told otherwise


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """How one codec computes the rows of a batch.

    Compiled code is of one width, so rows are lengthened to one of a few, and masked.
    """

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
        """Return the faster way for the device, unless `row_by_row` says which."""
        if row_by_row is None:
            row_by_row = device.type == "cpu"
        return cls(device, precision, row_by_row, compiled)

    @property
    def packs_weights(self) -> bool:
        """Whether matrices should lie as a CPU's kernels read them."""
        return self.device.type == "cpu" and self.precision == "fp32" and not self.compiled

    def compile(self, network: ComputeT) -> ComputeT:
        """Return `network`, compiled if that was asked for: once per width, for any batch."""
        if not self.compiled:
            return network
        compute = torch.compile(network, dynamic=False)

        def call(x: Tensor, *arguments: object) -> Tensor:
            for tensor in (x, *arguments):
                if isinstance(tensor, Tensor) and len(tensor) > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
            with torch._dynamo.config.patch(recompile_limit=_MAX_SIZES):
                return compute(x, *arguments)

        return call  # type: ignore[return-value]

    def pad_to_bucket(self, audio_BT: Tensor, limit: int | None = None) -> Tensor:
        """Return audio_BT, lengthened with zeros to a width that is compiled for."""
        if not self.compiled:
            return audio_BT
        size = audio_BT.shape[1]
        return F.pad(audio_BT, (0, min(bucket(size), limit or _LARGEST) - size))

    def groups(self, rows: list[int]) -> list[list[int]]:
        """Return which rows to compute together: each by itself, or all."""
        if self.row_by_row:
            return [[row] for row in rows]
        return [rows] if rows else []

    def unequal_lengths(self, lengths: list[int]) -> Tensor | None:
        """Return the lengths, or None where all are equal and nothing needs a mask."""
        if not self.compiled and min(lengths) == max(lengths):
            return None
        return torch.tensor(lengths, device=self.device)

    def compute(
        self,
        network: Callable[[Tensor, Tensor | None], Tensor],
        x: Tensor,
        lengths: list[int],
        out_length: Callable[[int], int],
    ) -> Tensor:
        """Return what `network` makes of `x`, of shape (B, ..., T): zero behind each row's end.

        `network` takes a batch and the rows' lengths, or None where all are full.
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
        """Return what `network` makes of one group of rows; a mask only where it is needed."""
        lengths_B = self.unequal_lengths(lengths)
        if lengths_B is None:
            return network(x, None)
        num_frames = [out_length(length) for length in lengths]
        y = network(self.pad_to_bucket(mask_padding(x, lengths_B)), lengths_B)[
            ..., : max(num_frames)
        ]
        return mask_padding(y, torch.tensor(num_frames, device=self.device))


def bucket(size: int) -> int:
    """Return the next size that is compiled for, `_STEPS` of them to an octave."""
    if size <= _SMALLEST:
        return _SMALLEST
    step = 1 << ((size - 1).bit_length() - 1) >> (_STEPS.bit_length() - 1)
    return -(-size // step) * step


def _stack(rows: list[Tensor]) -> Tensor:
    """Return the rows, each of shape (1, ..., T), in one tensor, zero behind their ends."""
    out = rows[0].new_zeros(len(rows), *rows[0].shape[1:-1], max(row.shape[-1] for row in rows))
    for place, row in zip(out, rows, strict=True):
        place[..., : row.shape[-1]] = row[0]
    return out
