"""Measure how much of the text each codebook holds, by a linear probe: docs/guide/probe.md."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR

from speechmill.jobs.cli.app import exit_codes
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.reader import TokenReader
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.bootstrap import bootstrap_interval
from speechmill.pipeline.quality.transcript_errors import count_errors, words

LABEL_RATE = 25.0  # Hz, least rate of characters and blanks; speech has about 15 characters/s
BATCH = 4  # utterances
WEIGHT_DECAY = 1.0  # of AdamW; without it rare codes are learned by heart


@dataclass(frozen=True, slots=True)
class Utterance:
    """codes_FK and the characters that were spoken."""

    codes_FK: Tensor
    text: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of every probe of a comparison."""

    width: int  # numbers that stand for a frame, of all codebooks together
    reach: int  # frames on each side
    stride: int  # frames between two that have labels
    outputs: int  # labels of such a frame

    @classmethod
    def at(cls, frame_rate: float, width: int, context: float) -> "Sizes":
        """Those for tokens of this rate (Hz), with so much context (s) on each side."""
        stride = max(1, int(frame_rate / LABEL_RATE))
        outputs = ceil(LABEL_RATE * stride / frame_rate)
        return cls(width, round(context * frame_rate), stride, outputs)

    def num_labels(self, frames_B: Tensor) -> Tensor:
        """The number of labels of each row."""
        return -(-frames_B // self.stride) * self.outputs

    def can_spell(self, utterance: Utterance) -> bool:
        """Whether CTC can: it needs a label for each character, and a blank between equal ones."""
        frames = torch.tensor([len(utterance.codes_FK)])
        pairs = zip(utterance.text, utterance.text[1:], strict=False)
        needed = len(utterance.text) + sum(one == next_one for one, next_one in pairs)
        return needed <= int(self.num_labels(frames))


class Probe(nn.Module):
    """Scores of characters that are linear in the one-hot codes of a few frames."""

    def __init__(self, codebook_sizes: Sequence[int], sizes: Sizes, num_labels: int) -> None:
        super().__init__()
        share = max(1, sizes.width // max(1, len(codebook_sizes)))
        self.tables = nn.ModuleList(nn.Embedding(size, share) for size in codebook_sizes)
        self.sizes = sizes
        self.linear = nn.Conv1d(
            1 + share * len(codebook_sizes),
            sizes.outputs * num_labels,
            2 * sizes.reach + 1,
            stride=sizes.stride,
            padding=sizes.reach,
        )

    def forward(self, codes_BFK: Tensor, frames_B: Tensor) -> Tensor:
        """Return logp_BTL, the log probabilities of the labels."""
        books = zip(self.tables, codes_BFK.unbind(-1), strict=True)
        is_frame_BF1 = (torch.arange(codes_BFK.shape[1]) < frames_B[:, None])[..., None].float()
        embedded = [table(codes_BF) * is_frame_BF1 for table, codes_BF in books]
        x_BFW = torch.cat([is_frame_BF1, *embedded], dim=-1)
        y_BFN = self.linear(x_BFW.transpose(1, 2)).transpose(1, 2)
        y_BTL = y_BFN.reshape(len(y_BFN), y_BFN.shape[1] * self.sizes.outputs, -1)
        logp_BTL: Tensor = y_BTL.log_softmax(-1)
        return logp_BTL


def read(dataset: TokenDataset, condition: str, sizes: Sizes) -> list[Utterance]:
    """The rows with a text that a condition selects, in their order.

    Rows whose text has more characters than the probe has labels are left out. Raises `InputError`
    if no row is left.
    """
    rows = TokenReader(dataset, columns=("text",), where=condition, shuffle_rows=None)
    found = [(row["codes"].long(), words(row["text"] or "")) for row in rows]
    utterances = [Utterance(codes_FK, text) for codes_FK, text in found if text]
    kept = [utterance for utterance in utterances if sizes.can_spell(utterance)]
    if not kept:
        raise InputError(f"no row of {dataset.root} has a text and fulfils {condition!r}")
    if left_out := len(utterances) - len(kept):
        print(f"left out {left_out} of {len(utterances)} rows: too fast to spell", file=sys.stderr)
    return kept


@dataclass(frozen=True, slots=True)
class Batch:
    """The codes of some codebooks, and for each row its text as labels; 0 is the blank."""

    codes_BFK: Tensor
    frames_B: Tensor
    wanted: list[Tensor]


def batches(utterances: Sequence[Utterance], books: Sequence[int], letters: str) -> Iterator[Batch]:
    """Yield the utterances in their order; a character that is not in `letters` is left out."""
    for first in range(0, len(utterances), BATCH):
        chosen = utterances[first : first + BATCH]
        parts = [each.codes_FK[:, books] for each in chosen]
        frames_B = torch.tensor([len(codes_FK) for codes_FK in parts])
        wanted = [[1 + letters.index(c) for c in each.text if c in letters] for each in chosen]
        codes_BFK = pad_sequence(parts, batch_first=True)
        yield Batch(codes_BFK, frames_B, [torch.tensor(labels) for labels in wanted])


def train(
    probe: Probe,
    utterances: Sequence[Utterance],
    books: Sequence[int],
    letters: str,
    epochs: int,
    lr: float,
) -> None:
    """Train by CTC, in which label 0 is the blank."""
    steps = epochs * ceil(len(utterances) / BATCH)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = LambdaLR(optimizer, lambda done: 0.5 + 0.5 * math.cos(math.pi * done / steps))
    for _ in range(epochs):
        order = [utterances[i] for i in torch.randperm(len(utterances)).tolist()]
        for batch in batches(order, books, letters):
            loss = ctc_loss(probe, batch, "mean")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def ctc_loss(probe: Probe, batch: Batch, reduction: str) -> Tensor:
    """The loss in nats (Graves et al., 2006)."""
    return F.ctc_loss(
        probe(batch.codes_BFK, batch.frames_B).transpose(0, 1),
        torch.cat(batch.wanted),
        probe.sizes.num_labels(batch.frames_B),
        torch.tensor([len(labels) for labels in batch.wanted]),
        reduction=reduction,
    )


@torch.no_grad()
def bits_per_character(probe: Probe, found: Sequence[Batch]) -> float:
    """The mean number of bits that the text costs if the codes are known."""
    nats = sum(float(ctc_loss(probe, batch, "sum")) for batch in found)
    return nats / math.log(2) / sum(len(labels) for batch in found for labels in batch.wanted)


@torch.no_grad()
def transcribe(probe: Probe, found: Sequence[Batch], letters: str) -> list[str]:
    """The most likely label of each place, without repeats and blanks."""
    transcripts = []
    for batch in found:
        best_BT = probe(batch.codes_BFK, batch.frames_B).argmax(-1)
        counts = probe.sizes.num_labels(batch.frames_B).tolist()
        for best_T, count in zip(best_BT, counts, strict=True):
            kept = best_T[:count].unique_consecutive().tolist()
            transcripts.append("".join(letters[label - 1] for label in kept if label))
    return transcripts


def measure(
    learned: Sequence[Utterance],
    measured: Sequence[Utterance],
    codebook_sizes: Sequence[int],
    books: Sequence[int],
    sizes: Sizes,
    *,
    epochs: int = 20,
    lr: float = 2e-2,
    seed: int = 0,
) -> dict[str, Any]:
    """The errors of a probe that reads some codebooks, on rows that it has not seen.

    The interval is the one of 95 % from drawing these rows again.
    """
    torch.manual_seed(seed)
    letters = "".join(sorted({c for each in learned for c in each.text}))
    probe = Probe([codebook_sizes[book] for book in books], sizes, 1 + len(letters))
    train(probe, learned, books, letters, epochs, lr)
    unseen = list(batches(measured, books, letters))
    pairs = zip(measured, transcribe(probe, unseen, letters), strict=True)
    counts = [count_errors(each.text, transcript)["cer"] for each, transcript in pairs]
    errors, totals = [count.errors for count in counts], [count.total for count in counts]
    low, high = bootstrap_interval(errors, totals)
    rate = sum(errors) / sum(totals)
    return {
        "codebooks": list(books),
        "char_error_rate": round(rate, 4),
        "interval": [round(low, 4), round(high, 4)],
        "bits_per_character": round(bits_per_character(probe, unseen), 3),
    }


def main(
    dataset: str,
    held_out: Annotated[str, typer.Option(help="condition for the rows to measure on")],
    width: Annotated[int, typer.Option(help="numbers that stand for a frame", min=1)] = 64,
    context: Annotated[float, typer.Option(help="s on each side of a frame", min=0)] = 0.06,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    lr: float = 2e-2,
    seed: int = 0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Train a probe on no codebook, on each and on all; print their errors as lines of JSON."""
    with exit_codes():
        torch.set_num_threads(threads)
        source = open_dataset(dataset, [])
        identity = source.require_identity()
        codebook_sizes, sizes = (
            identity["codebook_sizes"],
            Sizes.at(identity["frame_rate"], width, context),
        )
        learned, measured = (read(source, c, sizes) for c in (f"not ({held_out})", held_out))
        all_books = list(range(len(codebook_sizes)))
        for books in ([], *([book] for book in all_books), all_books):
            options = {"epochs": epochs, "lr": lr, "seed": seed}
            found = measure(learned, measured, codebook_sizes, books, sizes, **options)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    typer.run(main)
