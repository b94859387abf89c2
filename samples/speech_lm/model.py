"""A Llama over rows of speech tokens, one column for each codebook: docs/guide/speech-lm.md."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel

from speechmill.pipeline.dataset.reader import document_mask, labels
from speechmill.pipeline.dataset.templates import Template, template_from
from speechmill.pipeline.dataset.text_tokenizers import load_tokenizer
from speechmill.pipeline.dataset.vocabulary import PAD
from speechmill.pipeline.errors import InputError

FACTS, WEIGHTS = "model.json", "model.safetensors"  # of a run

Batch = dict[str, Any]
Counts = npt.NDArray[np.int64]


class SpeechLM(nn.Module):
    """It adds up the embeddings of a row, and predicts each stream of the next row with a head.

    A stream predicts only among its own ids: its codes and their padding, and in the first stream
    the tokens of text and the special tokens, too.
    """

    def __init__(self, template: Template, shape: dict[str, int]):
        super().__init__()
        vocabulary = template.vocabulary
        pad_id = vocabulary.special(PAD)
        self.llama = LlamaModel(
            LlamaConfig(vocab_size=vocabulary.num_ids, pad_token_id=pad_id, **shape)
        )
        self.heads = nn.Linear(self.llama.config.hidden_size, vocabulary.num_ids)
        first_ids = [0, *vocabulary.first_ids[1:]]
        self.ranges = list(zip(first_ids, [*first_ids[1:], vocabulary.num_ids], strict=True))

    @torch.no_grad()
    def begin_at(self, counts: Counts) -> None:
        """Begin with the frequencies of the ids, so that only what is better must be learned."""
        nn.init.normal_(self.heads.weight, std=0.02)
        self.heads.bias.copy_(torch.from_numpy(np.log(counts + 1.0)))

    def forward(self, ids_BTC: Tensor, **settings: Any) -> Tensor:
        embeddings_BTD = self.llama.embed_tokens(ids_BTC).sum(dim=2)
        return self.llama(inputs_embeds=embeddings_BTD, **settings).last_hidden_state

    def logits(self, hidden_ND: Tensor, stream: int) -> Tensor:
        """For the ids of a stream, of which the first is `ranges[stream][0]`."""
        own = slice(*self.ranges[stream])
        return functional.linear(hidden_ND, self.heads.weight[own], self.heads.bias[own])

    def losses(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """For each stream, the ids that it had to predict, and the loss of each in bits."""
        ids_BTC, documents_BT = batch["input_ids"], batch["document_ids"]
        hidden_BTD = self(
            ids_BTC,
            position_ids=batch["position_ids"],
            attention_mask=document_mask(documents_BT),
        )
        wanted_BTC = labels(ids_BTC, documents_BT)[:, 1:]
        found = []
        for stream, (first, _) in enumerate(self.ranges):
            wanted_BT = wanted_BTC[..., stream]
            counts_BT = (wanted_BT >= 0) & (wanted_BT != self.llama.config.pad_token_id)
            logits = self.logits(hidden_BTD[:, :-1][counts_BT], stream)
            wanted = wanted_BT[counts_BT]
            nats = functional.cross_entropy(logits, wanted - first, reduction="none")
            found.append((wanted, nats / math.log(2)))
        return found


def load_model(run: Path, tokenizer: str, revision: str) -> tuple[SpeechLM, Template]:
    """The model of a run, with the template that made its documents.

    Raises `InputError` if there is none, or if it learned tokens of another codec.
    """
    text = load_tokenizer(tokenizer)
    try:
        facts = json.loads((run / FACTS).read_text())
        template, made_with = template_from(facts["template"], text), facts["revision"]
        model = SpeechLM(template, facts["shape"])
        model.load_state_dict(load_file(run / WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{run} holds no trained model ({reason}); train one") from error
    if made_with != revision:
        raise InputError(
            f"{run} learned tokens of revision {made_with}, these are of {revision}; take a "
            "dataset of that codec"
        )
    return model.eval(), template
