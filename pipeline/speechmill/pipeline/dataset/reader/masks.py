"""What attention and the loss need of packed sequences."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechmill.pipeline.dataset.reader.packing import PADDING

IGNORED = -100  # as a label, of cross_entropy


def document_mask(document_ids: Tensor) -> Tensor:
    """Whether position q attends to position k: one of its own document, and not a later one.

    Of shape (B, 1, T, T) for document_ids_BT, or (T, T) for document_ids_T, as `attn_mask` of
    `scaled_dot_product_attention`. Padding attends to padding, so no row is without True.
    """
    length = document_ids.shape[-1]
    same = document_ids.unsqueeze(-1) == document_ids.unsqueeze(-2)
    mask = same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()
    return mask.unsqueeze(1) if document_ids.ndim == 2 else mask


def document_mask_mod(
    document_ids_BT: Tensor,
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The same mask for `create_block_mask` of FlexAttention."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (document_ids_BT[b, q] == document_ids_BT[b, k]) & (k <= q)

    return mask_mod


def labels(input_ids: Tensor, document_ids: Tensor) -> Tensor:
    """The ids to predict, at their own positions: models of transformers shift them themselves.

    -100, which the loss leaves out, stands for padding, and for the first id of each document:
    nothing of the document comes before it.
    """
    previous = torch.nn.functional.pad(document_ids[..., :-1], (1, 0), value=PADDING)
    ignored = (document_ids == PADDING) | (document_ids != previous)
    ignored = ignored[(...,) + (None,) * (input_ids.ndim - document_ids.ndim)]
    return input_ids.masked_fill(ignored, IGNORED)
