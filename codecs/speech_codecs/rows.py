"""Rows of different length through a network: in one masked batch, or each at its own length.

Row by row the result of a clip is the same to the last bit, whatever shares its batch; masked it
is so but for rounding. On a CPU one row fills the cores and row by row spends nothing on padding,
so it is the default there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from speech_codecs.nn.lengths import zero_behind
from speech_codecs.precision import computing_in


@dataclass(frozen=True, slots=True)
class Rows:
    """How one codec computes the rows of a batch."""

    device: torch.device
    precision: str
    row_by_row: bool

    @classmethod
    def on(cls, device: torch.device, precision: str, row_by_row: bool | None = None) -> "Rows":
        """Return the faster way for the device, unless `row_by_row` says which."""
        return cls(device, precision, device.type == "cpu" if row_by_row is None else row_by_row)

    def groups(self, rows: list[int]) -> list[list[int]]:
        """Return which rows to compute together: each by itself, or all."""
        if self.row_by_row:
            return [[row] for row in rows]
        return [rows] if rows else []

    def unequal(self, lengths: list[int]) -> Tensor | None:
        """Return the lengths, or None where all are equal and nothing needs a mask."""
        if min(lengths) == max(lengths):
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
        with computing_in(self.precision, self.device):
            if self.row_by_row:
                rows = zip(x[:, None], lengths, strict=True)
                return _stack([network(row[..., :length], None) for row, length in rows])
            lengths_B = self.unequal(lengths)
            if lengths_B is None:
                return network(x, None)
            y = network(zero_behind(x, lengths_B), lengths_B)
        return zero_behind(y, torch.tensor([out_length(n) for n in lengths], device=self.device))


def _stack(rows: list[Tensor]) -> Tensor:
    """Return the rows, each of shape (1, ..., T), in one tensor, zero behind their ends."""
    out = rows[0].new_zeros(len(rows), *rows[0].shape[1:-1], max(row.shape[-1] for row in rows))
    for place, row in zip(out, rows, strict=True):
        place[..., : row.shape[-1]] = row[0]
    return out
