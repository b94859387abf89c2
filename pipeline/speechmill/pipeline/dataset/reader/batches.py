"""Items of a reader as batches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechmill.pipeline.dataset.reader.rows import Item


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """A batch of packed sequences, or of utterances; for `collate_fn` of a DataLoader.

    Sequences: the tensors stacked, and `cu_seqlens` for all of them one after the other, as
    flash-attention takes it. Utterances: `codes` as codes_BFK, int64, with 0 after the end of each,
    `num_frames`, and lists of the other columns.
    """
    return _sequences(items) if "input_ids" in items[0] else _utterances(items)


def _sequences(items: Sequence[Item]) -> dict[str, Any]:
    length = len(items[0]["input_ids"])
    stacked = ("input_ids", "position_ids", "document_ids")
    ends = [item["cu_seqlens"][1:] + number * length for number, item in enumerate(items)]
    return {
        **{name: torch.stack([item[name] for item in items]) for name in stacked},
        "cu_seqlens": torch.cat([items[0]["cu_seqlens"][:1], *ends]),
        "max_seqlen": max(item["max_seqlen"] for item in items),
    }


def _utterances(items: Sequence[Item]) -> dict[str, Any]:
    codes: list[Tensor] = [item["codes"].long() for item in items]
    return {
        "codes": pad_sequence(codes, batch_first=True),
        "num_frames": torch.tensor([len(codes_FK) for codes_FK in codes]),
        **{name: [item[name] for item in items] for name in items[0] if name != "codes"},
    }
