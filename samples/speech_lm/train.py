"""Train a small language model of text and speech tokens: docs/guide/speech-lm.md."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from model import FACTS, WEIGHTS, Batch, Counts, SpeechLM
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from speechmill.jobs.cli.app import exit_codes
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.patterns import Delay
from speechmill.pipeline.dataset.reader import TokenReader, collate
from speechmill.pipeline.dataset.templates import Template, make_template
from speechmill.pipeline.dataset.text_tokenizers import BYTES, load_tokenizer
from speechmill.pipeline.dataset.vocabulary import PAD
from speechmill.pipeline.errors import InputError


@dataclass(frozen=True)
class Data:
    """The rows to train on as a reader, and those to measure on as sequences."""

    template: Template
    reader: TokenReader
    held_out: list[Batch]
    counts: Counts  # of each id in an epoch of training
    unigram_bits: list[float]  # of each codebook

    @classmethod
    def read(
        cls, dataset: TokenDataset, template: Template, condition: str, length: int, seed: int
    ) -> "Data":
        """Raises `InputError` if there are no rows to train on, or none to measure on."""
        pad_id = template.vocabulary.special(PAD)
        readers = [
            TokenReader(dataset, template, length, where=where, pad_id=pad_id, seed=seed)
            for where in (f"not ({condition})", condition)
        ]
        counts, others = (id_counts(template, reader) for reader in readers)
        if not counts.any() or not others.any():
            which = "held out" if counts.any() else "left to train on"
            raise InputError(f"held-out is {condition!r}, and no row of {dataset.root} is {which}")
        unigram = unigram_bits(template, counts, others)
        return cls(template, readers[0], list(readers[1]), counts, unigram)

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of one epoch after the other."""
        for epoch in count():
            self.reader.set_epoch(epoch)
            yield from DataLoader(self.reader, size, collate_fn=collate)


def id_counts(template: Template, reader: TokenReader) -> Counts:
    """How often each id comes in an epoch."""
    counts = np.zeros(template.vocabulary.num_ids, dtype=np.int64)
    for sequence in reader:
        counts += np.bincount(sequence["input_ids"].reshape(-1), minlength=len(counts))
    return counts


def unigram_bits(template: Template, train: Counts, held_out: Counts) -> list[float]:
    """For each codebook, the held-out cross-entropy of the frequencies of its codes in training."""
    found = []
    for codebook in range(len(template.vocabulary.codebook_sizes)):
        own = list(template.vocabulary.codes(codebook))
        frequencies = (train[own] + 1) / (train[own] + 1).sum()
        found.append(float(-held_out[own] @ np.log2(frequencies) / held_out[own].sum()))
    return found


@torch.no_grad()
def held_out_bits(model: SpeechLM, data: Data, batch_size: int) -> list[float]:
    """The mean loss of the codes of each codebook."""
    sums, numbers = np.zeros((2, len(model.ranges)))
    model.eval()
    for batch in DataLoader(data.held_out, batch_size, collate_fn=collate):
        for stream, (wanted, bits) in enumerate(model.losses(batch)):
            codes = data.template.vocabulary.codes(stream)
            is_code = (wanted >= codes.start) & (wanted < codes.stop)
            sums[stream] += bits[is_code].sum().item()
            numbers[stream] += is_code.sum().item()
    model.train()
    return list(sums / numbers)


def training(
    model: SpeechLM, batches: Iterator[Batch], steps: int, lr: float
) -> Iterator[tuple[int, float]]:
    """Train with AdamW, and yield the number and the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = LambdaLR(optimizer, lambda done: warm_up_and_cosine(done, steps))
    for step, batch in enumerate(islice(batches, steps), start=1):
        bits = torch.cat([each for _, each in model.losses(batch)]).mean()
        optimizer.zero_grad()
        bits.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield step, bits.item()


def warm_up_and_cosine(done: int, steps: int, warm_up: int = 30) -> float:
    """The factor of the learning rate: up to 1 by a line, then down to 0.1 by a cosine."""
    if done < warm_up:
        return (done + 1) / warm_up
    return 0.55 + 0.45 * math.cos(math.pi * (done - warm_up) / max(1, steps - warm_up))


class Log:
    """Prints and records measurements, and keeps the model that has the lowest loss."""

    def __init__(self, run: Path, unigram: list[float]):
        self._run, self._unigram = run, unigram
        self._start, self._best = time.perf_counter(), math.inf
        print(f"held-out bits by codebook\n{'unigram':>15}  {_columns(unigram)}")

    def add(self, step: int, train_bits: float | None, found: list[float], model: SpeechLM) -> None:
        """Record one measurement."""
        seconds = round(time.perf_counter() - self._start, 1)
        print(f"{step:5d} {seconds:7.0f} s  {_columns(found)}", flush=True)
        entry = {
            "step": step,
            "seconds": seconds,
            "train_bits": train_bits,
            "held_out_bits": found,
            "unigram_bits": self._unigram,
        }
        with (self._run / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        if sum(found) < self._best:
            self._best = sum(found)
            save_file(model.state_dict(), self._run / WEIGHTS)


def _columns(bits: list[float]) -> str:
    return " ".join(f"{each:6.3f}" for each in bits)


def begin_run(folder: Path, template: Template, shape: dict[str, int], revision: str) -> None:
    """Write what `load_model` needs; raises `InputError` if the folder holds a run."""
    if (folder / FACTS).exists():
        raise InputError(f"{folder} holds a run; delete it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"template": template.description(), "shape": shape, "revision": revision}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def train(
    dataset: str,
    run: Path,
    held_out: Annotated[str, typer.Option(help="condition for the rows to measure on")],
    tokenizer: Annotated[str, typer.Option(help="of the text: bytes, or a tokenizer.json")] = BYTES,
    steps: Annotated[int, typer.Option(min=1)] = 300,
    every: Annotated[int, typer.Option(help="steps between two measurements", min=1)] = 25,
    length: Annotated[int, typer.Option(help="rows of a sequence")] = 512,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    heads: Annotated[int, typer.Option(help="of attention, of 32 numbers each", min=1)] = 6,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Train on the rows that are not held out, and measure the others."""
    with exit_codes():
        torch.manual_seed(seed)
        source = open_dataset(dataset, [])
        identity = source.require_identity()
        pattern, text = Delay(tuple(identity["codebook_sizes"])), load_tokenizer(tokenizer)
        template = make_template(pattern, "before", tokenizer=text, multiple=64)
        data = Data.read(source, template, held_out, length, seed)
        shape = {
            "hidden_size": 32 * heads,
            "intermediate_size": 96 * heads,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }
        begin_run(run, template, shape, identity["revision"])
        model = SpeechLM(template, shape)
        model.begin_at(data.counts)
        log = Log(run, data.unigram_bits)
        log.add(0, None, held_out_bits(model, data, batch_size), model)
        for step, bits in training(model, data.batches(batch_size), steps, lr):
            if step % every == 0 or step == steps:
                log.add(step, bits, held_out_bits(model, data, batch_size), model)


if __name__ == "__main__":
    typer.run(train)
