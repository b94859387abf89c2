"""Continue utterances with a model of `train.py`: docs/guide/speech-lm.md."""

from collections import Counter
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import torch
import typer
from model import SpeechLM, load_model
from torch import Tensor

from speechmill.jobs.cli.app import exit_codes
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.pipeline.dataset.documents import utterances_of
from speechmill.pipeline.dataset.generated import Generated, require_empty, write_generated
from speechmill.pipeline.dataset.reader import TokenReader
from speechmill.pipeline.dataset.templates import Template
from speechmill.pipeline.dataset.text_tokenizers import BYTES
from speechmill.pipeline.dataset.vocabulary import AUDIO
from speechmill.pipeline.errors import InputError

Choose = Callable[[Tensor], int]


def prompt(template: Template, item: dict[str, Any], frames: int) -> Tensor:
    """The rows of an utterance up to a frame: its text, and the beginning of its codes."""
    codes_FK = item["codes"].numpy()
    row = pa.table({"codes": [codes_FK.reshape(-1)], "text": pa.array([item["text"]], pa.string())})
    ids_TC = torch.from_numpy(template.encode(utterances_of(row, codes_FK.shape[1])).ids).long()
    return ids_TC[: first_frame(template, ids_TC) + min(frames, len(codes_FK))]


def first_frame(template: Template, ids_TC: Tensor) -> int:
    """The row after `<|audio|>`."""
    return int((ids_TC[:, 0] == template.vocabulary.special(AUDIO)).nonzero()[0]) + 1


@torch.no_grad()
def continued(
    model: SpeechLM, template: Template, ids_TC: Tensor, frames: int, choose: Choose
) -> Tensor:
    """The prompt and what follows, up to the end of the utterance or to a number of frames.

    A stream may only give what the pattern has there: padding before its delay and after the end,
    and codes in between. The first stream ends the utterance by its padding, which may not be its
    first row.
    """
    begin, end = first_frame(template, ids_TC), frames
    for row in count(len(ids_TC) - begin):
        if row >= end + max(template.pattern.shifts):
            break
        hidden_D = model(ids_TC[None])[0, -1]  # a cache of keys would be faster, and longer to read
        ids = []
        for stream, shift in enumerate(template.pattern.shifts):
            codes = template.vocabulary.codes(stream)
            if shift <= row < end + shift:
                first = model.ranges[stream][0]
                legal = slice(codes.start - first, codes.stop - first + (stream == 0 < row))
                ids.append(codes.start + choose(model.logits(hidden_D, stream)[legal]))
            else:
                ids.append(codes.stop)
            if stream == 0 and ids[0] == codes.stop:
                end = min(end, row)
        ids_TC = torch.cat([ids_TC, torch.tensor([ids])])
    return ids_TC


def sampler(temperature: float, top: int) -> Choose:
    """Sample among the likeliest."""

    def choose(logits_N: Tensor) -> int:
        best = (logits_N / temperature).topk(min(top, len(logits_N)))
        return int(best.indices[best.values.softmax(0).multinomial(1)])

    return choose


def generate(
    run: Path,
    dataset: str,
    output: Annotated[str, typer.Argument(help="folder for the tokens, for `speechmill decode`")],
    where: Annotated[str, typer.Option(help="condition for the rows to continue")],
    tokenizer: Annotated[str, typer.Option(help="that of the training")] = BYTES,
    prompts: Annotated[int, typer.Option(help="how many of the rows", min=1)] = 4,
    prompt_seconds: float = 2.0,
    seconds: Annotated[float, typer.Option(help="of prompt and continuation, at most")] = 6.0,
    temperature: float = 1.0,
    top: Annotated[int, typer.Option(help="codes to choose from, the likeliest", min=1)] = 100,
    seed: int = 0,
) -> None:
    """Continue utterances, and write them as a token dataset."""
    with exit_codes():
        if not 0 <= prompt_seconds < seconds:
            raise InputError(f"prompt-seconds is {prompt_seconds}; give less than {seconds}")
        torch.manual_seed(seed)
        source, target = open_dataset(dataset, []), open_dataset(output, [])
        require_empty(target)
        identity = source.require_identity()
        model, template = load_model(run, tokenizer, identity["revision"])
        rate, choose, found = identity["frame_rate"], sampler(temperature, top), []
        seen: Counter[str] = Counter()  # the segments of a recording have one key
        for item in islice(TokenReader(source, where=where, shuffle_rows=None), prompts):
            ids_TC = prompt(template, item, round(prompt_seconds * rate))
            ids_TC = continued(model, template, ids_TC, round(seconds * rate), choose)
            [codes_FK] = template.audio_codes_of(ids_TC.numpy())
            key = item["key"]
            seen[key] += 1
            name = key if seen[key] == 1 else f"{key}-{seen[key]}"
            print(f"{name}  {len(codes_FK) / rate:.1f} s", flush=True)
            found.append(Generated(name, codes_FK, item["text"]))
        if not found:
            raise InputError(f"where is {where!r}, and no row of {dataset} is selected")
        write_generated(source, target, found)


if __name__ == "__main__":
    typer.run(generate)
