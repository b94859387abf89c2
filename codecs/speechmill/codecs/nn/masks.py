"""Masks for rows of different length in one padded tensor: the base of the exactness contract."""

import torch
from torch import Tensor
from torch.nn import functional as F


def padding_mask(lengths_B: Tensor, size: int) -> Tensor:
    """Return mask_BT of `size` columns, True after each row's end."""
    return torch.arange(size, device=lengths_B.device) >= lengths_B[:, None]


def mask_padding(x: Tensor, lengths_B: Tensor) -> Tensor:
    """Return `x`, of shape (B, ..., T), with zeros after each row's end."""
    mask_BT = padding_mask(lengths_B, x.shape[-1])
    between = [1] * (x.dim() - 2)
    return x.masked_fill(mask_BT.view(len(lengths_B), *between, -1), 0)


def mask_padding_frames(x_BTC: Tensor, lengths_B: Tensor) -> Tensor:
    """Return x_BTC with zeros after each row's end."""
    return x_BTC.masked_fill(padding_mask(lengths_B, x_BTC.shape[1])[..., None], 0)


def repeat_last(x_BCT: Tensor, lengths_B: Tensor) -> Tensor:
    """Return x_BCT with each row's last column repeated after its end."""
    column_T = torch.arange(x_BCT.shape[-1], device=x_BCT.device)
    source_BT = torch.minimum(column_T, lengths_B[:, None] - 1)
    return x_BCT.gather(-1, source_BT[:, None].expand(-1, x_BCT.shape[1], -1))


def pad_or_trim(audio_BT: Tensor, num_samples: int) -> Tensor:
    """Return audio_BT of `num_samples` samples, cut or padded with zeros."""
    return F.pad(audio_BT, (0, num_samples - audio_BT.shape[-1]))
