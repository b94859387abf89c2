"""The `speechmill` command.

Exit codes: 0 all done, 1 some shards failed or verify found a fault, 2 usage or configuration,
130 interrupted.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console

from speechmill.codecs.errors import CodecError
from speechmill.jobs.config import from_overrides, load_config
from speechmill.jobs.display import Display, ShardDisplay, print_line
from speechmill.jobs.schemas import EnhanceConfig, EvaluateConfig, PackConfig, TokenizeConfig
from speechmill.pipeline.errors import (
    DatasetConflict,
    InputError,
    RunStopped,
    SpeechmillError,
    StorageDenied,
    StorageNotFound,
)
from speechmill.pipeline.paths import absolute_path
from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.text import message_of, shown

app = typer.Typer(
    help="Speech corpora in WebDataset shards to token corpora in Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)

_USAGE = (InputError, DatasetConflict, CodecError, StorageDenied, StorageNotFound)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, replaces a value of the configuration")
]
Config = Annotated[Path, typer.Argument(help="YAML file, see `speechmill examples`")]
Dataset = Annotated[
    str, typer.Argument(help="folder of a token dataset, local or a URL", callback=absolute_path)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for a script")]


@app.command("tokenize")
def tokenize_command(config: Config, overrides: Overrides = None) -> None:
    """Encode shards into a token dataset; run it again to resume.

    Workers run on Ray; workers.count=0 runs in this process, without Ray.
    """
    from speechmill.jobs.commands.tokenize import tokenize_shards

    with _exit_codes():
        settings = load_config(TokenizeConfig, config, overrides or [])
        totals = tokenize_shards(settings, ShardDisplay(console))
    raise typer.Exit(1 if totals.failed else 0)


@app.command("plan")
def plan_command(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what `tokenize` would do with a configuration, for each codec; nothing is written."""
    from speechmill.jobs.commands.plan import plan_runs, plans_json, print_plan

    with _exit_codes():
        settings = load_config(TokenizeConfig, config, overrides or [])
        plans = plan_runs(settings)
    if as_json:
        print(plans_json(plans))
    else:
        for found in plans:
            print_plan(found, console)


@app.command("train")
def train_command(config: Config, overrides: Overrides = None) -> None:
    """Train or fine-tune a codec on shards; run it again to resume.

    Workers run on Ray; workers.count=0 trains on the CPU in this process, without Ray.
    """
    with _exit_codes():  # importing torch takes seconds, in which Ctrl-C may come
        from speechmill.jobs.commands.train import train_codec
        from speechmill.jobs.training.config import TrainConfig
        from speechmill.jobs.training.display import TrainDisplay

        train_codec(load_config(TrainConfig, config, overrides or []), TrainDisplay(console))


@app.command("fit-kmeans")
def fit_kmeans_command(config: Config, overrides: Overrides = None) -> None:
    """Fit the k-means codebook of a codec to features of shards; run it again to resume."""
    with _exit_codes():
        from speechmill.jobs.commands.fit_kmeans import fit_codebook
        from speechmill.jobs.training.kmeans import FitConfig

        fit_codebook(load_config(FitConfig, config, overrides or []), Display(console))


@app.command("pack")
def pack_command(
    source: Annotated[
        str, typer.Argument(help="folder of audio, or .jsonl/.json/.csv/.tsv manifest")
    ],
    output: Annotated[str, typer.Argument(help="folder for the shards, local or a URL")],
    overrides: Overrides = None,
) -> None:
    """Pack audio files and their metadata into WebDataset shards; run it again to resume."""
    from speechmill.jobs.commands.pack import pack_audio

    with _exit_codes():
        # Quoted, because YAML takes a path such as 2024_01 for a number.
        paths = [f"source={json.dumps(source)}", f"output={json.dumps(output)}"]
        settings = from_overrides(PackConfig, [*(overrides or []), *paths])
        pack_audio(settings, Display(console))


@app.command("enhance")
def enhance_command(config: Config, overrides: Overrides = None) -> None:
    """Write shards of original and enhanced audio, for training; run it again to resume.

    Workers run on Ray; workers.count=0 runs in this process, without Ray.
    """
    from speechmill.jobs.commands.enhance import enhance_shards

    with _exit_codes():
        settings = load_config(EnhanceConfig, config, overrides or [])
        totals = enhance_shards(settings, ShardDisplay(console, "enhancing"))
    raise typer.Exit(1 if totals.failed else 0)


@app.command("evaluate")
def evaluate_command(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare codecs or checkpoints on a test set: table, results.json and report.html."""
    from speechmill.jobs.commands.evaluate import evaluate_codecs

    with _exit_codes():
        settings = load_config(EvaluateConfig, config, overrides or [])
        results = evaluate_codecs(settings, Display(errors if as_json else console))
    if as_json:
        print(results.to_json(), end="")


@app.command("codecs")
def codecs_command(as_json: AsJson = False) -> None:
    """List the codecs: rates, codebooks, size, licence of the published weights, paper."""
    from speechmill.jobs.commands.codecs import codecs_table, describe_codecs

    with _exit_codes():
        found = describe_codecs()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        width = None if console.is_terminal else 200
        Console(width=width, markup=False, emoji=False).print(codecs_table(found))


@app.command("examples")
def examples_command(
    folder: Annotated[str | None, typer.Argument(help="copy them here; default: copy none")] = None,
) -> None:
    """Print where the example configurations and the sample speech are, or copy them."""
    from speechmill.jobs.commands.examples import FOLDERS, copy_examples, examples_folder

    with _exit_codes():
        if folder is None:
            found = [examples_folder() / name for name in FOLDERS]
        else:
            found = copy_examples(Path(absolute_path(folder)))
    for path in found:
        print_line(console, str(path))


@app.command("status")
def status_command(output: Dataset, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a token dataset holds and which shards failed."""
    from speechmill.jobs.commands.status import print_status, read_status
    from speechmill.jobs.existing_dataset import open_dataset

    with _exit_codes():
        found = read_status(open_dataset(output, overrides or []))
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            print_status(found, console)
    raise typer.Exit(1 if found.failed else 0)


@app.command("verify")
def verify_command(
    output: Dataset,
    overrides: Overrides = None,
    reencode: Annotated[int, typer.Option(help="rows to encode again, chosen at random")] = 0,
    redecode: Annotated[
        int, typer.Option(help="recordings to decode with two decoders, chosen at random")
    ] = 0,
    keys: Annotated[
        bool | None,
        typer.Option("--keys/--no-keys", help="a tar that is not read is a fault, or read none"),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="folder of source tars, local or a URL; no tar is read elsewhere; may be repeated",
            parser=absolute_path,
            metavar="URL",
        ),
    ] = None,
    unique_keys: Annotated[bool, typer.Option(help="count a key in two shards as a fault")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="share of codes that may differ; default: 0 from CPU to CPU, else any"),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the random choice of rows")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read a whole token dataset and list its faults.

    Source tars are read only below --source, because a dataset of others may name any file.
    Overrides change the settings with which rows are encoded again.
    """
    from speechmill.jobs.commands.verify import (
        VerifyOptions,
        print_verification,
        verification_json,
        verify_dataset,
    )

    with _exit_codes():
        options = VerifyOptions(
            keys, unique_keys, reencode, redecode, seed, tolerance, tuple(source or ())
        )
        found, mismatch = verify_dataset(output, options, overrides or [])
    if as_json:
        print(json.dumps(verification_json(found, mismatch), indent=2))
    else:
        print_verification(found, mismatch, console)
    raise typer.Exit(1 if found.faults else 0)


@app.command("report")
def report_command(
    output: Dataset,
    overrides: Overrides = None,
    run: Annotated[str | None, typer.Option(help="id of the run; default: the newest")] = None,
) -> None:
    """Write runs/<run id>/report.html again, also for a run that was killed."""
    from speechmill.jobs.existing_dataset import open_dataset
    from speechmill.jobs.report.run_page import write_report

    with _exit_codes():
        url = write_report(open_dataset(output, overrides or []), run)
    print_line(console, url)


@app.command("decode")
def decode_command(
    dataset: Dataset,
    output: Annotated[
        str, typer.Argument(help="folder for the audio, local or a URL", callback=absolute_path)
    ],
    overrides: Overrides = None,
    codebooks: Annotated[
        int | None, typer.Option(help="use only so many of the codebooks, the first ones")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="largest number of utterances")] = None,
    shards: Annotated[
        bool, typer.Option(help="write a tar for each part, not a file for each row")
    ] = False,
) -> None:
    """Turn tokens back into audio with the codec that made them, in this process."""
    from speechmill.jobs.commands.decode import decode_dataset

    with _exit_codes():
        decode_dataset(
            dataset,
            output,
            codebooks=codebooks,
            limit=limit,
            shards=shards,
            overrides=overrides or [],
            display=Display(console),
        )


@app.command("export")
def export_command(
    dataset: Dataset,
    output: Annotated[
        str, typer.Argument(help="folder for the files, local or a URL", callback=absolute_path)
    ],
    overrides: Overrides = None,
    kind: Annotated[str, typer.Option("--format", help="parquet, megatron or npy")] = "parquet",
    pattern: Annotated[str, typer.Option(help="parallel, delay or flatten")] = "parallel",
    codebooks: Annotated[
        int | None, typer.Option(help="use only so many of the codebooks, the first ones")
    ] = None,
    shifts: Annotated[
        str, typer.Option(help="rows of delay of each codebook; default: 0,1,2,…")
    ] = "",
    first_id: Annotated[
        int, typer.Option(help="first flat id: the size of the text vocabulary")
    ] = 0,
) -> None:
    """Write a token dataset in the format and the pattern that a trainer reads."""
    from speechmill.jobs.commands.export import export_dataset

    with _exit_codes():
        export_dataset(
            dataset,
            output,
            kind,
            pattern,
            codebooks=codebooks,
            shifts=shifts,
            first_id=first_id,
            overrides=overrides or [],
            display=Display(console),
        )


class _PlainFormatter(logging.Formatter):
    """Escapes control characters in messages, not in tracebacks."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Print an error in one line and exit with its code."""
    try:
        yield
    except (KeyboardInterrupt, RunStopped) as error:
        errors.print("interrupted; run the same command again to resume")
        raise typer.Exit(130) from error
    except _USAGE as error:
        print_line(errors, f"error: {message_of(error)}")
        raise typer.Exit(2) from error
    except SpeechmillError as error:
        print_line(errors, f"error: {type(error).__name__}: {message_of(error)}")
        raise typer.Exit(1) from error


class _PublicStream:
    """A stream of text to which no secret is written, also not by a traceback or a library."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(public_text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Entry point of the `speechmill` command."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 must not end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = cast(TextIO, _PublicStream(sys.stdout))
    sys.stderr = cast(TextIO, _PublicStream(sys.stderr))
    # Child processes must not import a user's json.py from the working directory.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    app(prog_name="speechmill")


if __name__ == "__main__":
    main()
