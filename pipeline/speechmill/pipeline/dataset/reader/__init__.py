"""Token datasets for training in PyTorch: shuffled, shared out to ranks, packed, resumable."""

from speechmill.pipeline.dataset.reader.batches import collate
from speechmill.pipeline.dataset.reader.even import even_batches
from speechmill.pipeline.dataset.reader.masks import document_mask, document_mask_mod, labels
from speechmill.pipeline.dataset.reader.state import merge_states
from speechmill.pipeline.dataset.reader.token_reader import TokenReader

__all__ = [
    "TokenReader",
    "collate",
    "document_mask",
    "document_mask_mod",
    "even_batches",
    "labels",
    "merge_states",
]
