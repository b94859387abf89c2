"""Compute rows of different length: in one masked batch, or each at its own length.

Row by row, the result of a clip is the same to the last bit in every batch; in a masked batch it
may differ by rounding. On a CPU one row keeps all cores busy and padding costs time, so row by row
is the default there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.precision import autocast

ComputeT = TypeVar("ComputeT", bound=Callable[..., Tensor])
RowT = TypeVar("RowT")

_STEPS = 4  # compiled sizes per octave: on average they add a ninth to the columns
_SMALLEST = 8_192  # samples; shorter clips are all padded to this
_LARGEST = 1 << 30
_MAX_SIZES = 256  # PyTorch's own limit is eight, after which it stops compiling


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """How one codec computes the rows of a batch.

    Compiled code has a fixed width, so rows are padded to one of a few widths, and masked.
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
        """Return the faster way for the device, unless `row_by_row` chooses one."""
        if row_by_row is None:
            row_by_row = device.type == "cpu"
        return cls(device, precision, row_by_row, compiled)

    @property
    def packs_weights(self) -> bool:
        """Whether to store matrices in the order in which a CPU's kernels read them."""
        return self.device.type == "cpu" and self.precision == "fp32" and not self.compiled

    def compile(self, network: ComputeT) -> ComputeT:
        """Return `network`; if `compiled`, it is compiled once per width, for all batch sizes."""
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
        """Return audio_BT, padded with zeros to a compiled width if code is compiled."""
        if not self.compiled:
            return audio_BT
        size = audio_BT.shape[1]
        return F.pad(audio_BT, (0, min(bucket(size), limit or _LARGEST) - size))

    def groups(self, rows: list[RowT]) -> list[list[RowT]]:
        """Return which rows to compute together: each on its own, or all."""
        if self.row_by_row:
            return [[row] for row in rows]
        return [rows] if rows else []

    def unequal_lengths(self, lengths: list[int]) -> Tensor | None:
        """Return the lengths, or None if all are equal, so that nothing needs a mask."""
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
        """Return the network's output for `x`, of shape (B, ..., T), zero after each row's end.

        `network` takes a batch and the rows' lengths, or None if all are full.
        """
        x = x[..., : max(lengths)].to(self.device)
        with autocast(self.precision, self.device):
            if not self.row_by_row:
                return self._masked(network, x, lengths, out_length)
            rows = zip(x[:, None], lengths, strict=True)
            return _stack([self._masked(network, row[..., :n], [n], out_length) for row, n in rows])

    def compute_codes(
        self,
        encode: Callable[[Tensor, list[int], list[int]], Tensor],
        audio_BT: Tensor,
        num_samples: list[int],
        info: CodecInfo,
    ) -> Tensor:
        """Return codes_BKF; rows that are too short for a frame are not computed.

        `encode` takes the audio of a group of rows, their numbers of samples and of frames.
        """
        num_frames = [info.num_frames(samples) for samples in num_samples]
        shape = (len(audio_BT), info.num_codebooks, max(num_frames))
        codes_BKF = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for rows in self.groups([row for row, frames in enumerate(num_frames) if frames]):
            samples, frames = [num_samples[r] for r in rows], [num_frames[r] for r in rows]
            audio_GT = audio_BT[rows, : max(samples)].to(self.device)
            with autocast(self.precision, self.device):
                codes_GKF = encode(audio_GT, samples, frames)
            codes_BKF[rows, :, : max(frames)] = codes_GKF[..., : max(frames)]
        return codes_BKF

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
        num_frames = [out_length(length) for length in lengths]
        padded = self.pad_to_bucket(mask_padding(x, lengths_B))
        y = network(padded, lengths_B)[..., : max(num_frames)]
        return mask_padding(y, torch.tensor(num_frames, device=self.device))


def bucket(size: int) -> int:
    """Return the next compiled size; there are `_STEPS` of them in an octave."""
    if size <= _SMALLEST:
        return _SMALLEST
    step = 1 << ((size - 1).bit_length() - 1) >> (_STEPS.bit_length() - 1)
    return -(-size // step) * step


def _stack(rows: list[Tensor]) -> Tensor:
    """Return the rows, each of shape (1, ..., T), in one tensor, zero after their ends."""
    out = rows[0].new_zeros(len(rows), *rows[0].shape[1:-1], max(row.shape[-1] for row in rows))
    for place, row in zip(out, rows, strict=True):
        place[..., : row.shape[-1]] = row[0]
    return out
