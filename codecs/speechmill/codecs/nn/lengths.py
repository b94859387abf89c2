"""Rows of different length in one padded tensor."""

import torch
from torch import Tensor


def padding_mask(lengths_B: Tensor, size: int) -> Tensor:
    """Return mask_BT of `size` columns, True behind each row's end."""
    return torch.arange(size, device=lengths_B.device) >= lengths_B[:, None]


def mask_padding(x: Tensor, lengths_B: Tensor) -> Tensor:
    """Return `x`, of shape (B, ..., T), with zeros behind each row's end, whatever was there."""
    mask_BT = padding_mask(lengths_B, x.shape[-1])
    between = [1] * (x.dim() - 2)
    return x.masked_fill(mask_BT.view(len(lengths_B), *between, -1), 0)
