"""The `speechmill` command.

Exit codes: 0 all done, 1 some shards failed or verify found a fault, 2 usage or configuration,
130 interrupted.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from speechmill.codecs.errors import CodecError
from speechmill.jobs.commands.codecs import codecs_table, describe_codecs
from speechmill.jobs.commands.status import Status, read_status
from speechmill.jobs.config import for_each_codec, from_overrides, load_config
from speechmill.jobs.display import Display, ShardDisplay
from speechmill.jobs.schemas import (
    EnhanceConfig,
    EvaluateConfig,
    PackConfig,
    StatusConfig,
    TokenizeConfig,
)
from speechmill.pipeline.errors import (
    DatasetConflict,
    InputError,
    RunStopped,
    SpeechmillError,
    StorageDenied,
    StorageNotFound,
)
from speechmill.pipeline.paths import absolute_path
from speechmill.pipeline.storage import Storage

app = typer.Typer(
    help="Speech corpora in WebDataset shards to token corpora in Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

_USAGE = (InputError, DatasetConflict, CodecError, StorageDenied, StorageNotFound)

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, over the file's own")]
Config = Annotated[Path, typer.Argument(help="YAML file, see configs/")]
Dataset = Annotated[
    str, typer.Argument(help="folder of a token dataset, local or a URL", callback=absolute_path)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for a script")]


@app.command()
def tokenize(config: Config, overrides: Overrides = None) -> None:
    """Encode shards into a token dataset; run it again to resume.

    Workers run on Ray; workers.count=0 runs in this process, without Ray.
    """
    from speechmill.jobs.commands.tokenize import tokenize as run_tokenize

    with _exit_codes():
        settings = load_config(TokenizeConfig, config, overrides or [])
        totals = run_tokenize(settings, ShardDisplay(console))
    raise typer.Exit(1 if totals.failed else 0)


@app.command()
def plan(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what `tokenize` would do with a configuration, for each codec; nothing is written."""
    from speechmill.jobs.commands.plan import plan as make_plan
    from speechmill.jobs.commands.plan import show, to_json

    with _exit_codes():
        settings = load_config(TokenizeConfig, config, overrides or [])
        plans = [make_plan(single) for single in for_each_codec(settings)]
    if as_json:
        print(to_json(plans))
    else:
        for found in plans:
            show(found, console)


@app.command()
def train(config: Config, overrides: Overrides = None) -> None:
    """Train or fine-tune a codec on shards; run it again to resume.

    Workers run on Ray; workers.count=0 trains on the CPU in this process, without Ray.
    """
    with _exit_codes():
        from speechmill.jobs.commands.train import train as run_train
        from speechmill.jobs.training.config import TrainConfig
        from speechmill.jobs.training.display import TrainDisplay

        run_train(load_config(TrainConfig, config, overrides or []), TrainDisplay(console))


@app.command("fit-kmeans")
def fit_kmeans(config: Config, overrides: Overrides = None) -> None:
    """Fit the k-means codebook of a codec to features of shards; run it again to resume."""
    with _exit_codes():
        from speechmill.jobs.commands.fit_kmeans import fit_kmeans as run_fit
        from speechmill.jobs.training.kmeans_config import FitConfig

        settings = load_config(FitConfig, config, overrides or [])
        run_fit(settings, Display(console))


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="folder of audio, or .jsonl/.csv/.tsv manifest")],
    output: Annotated[str, typer.Argument(help="folder for the shards, local or a URL")],
    overrides: Overrides = None,
) -> None:
    """Pack audio files and their metadata into WebDataset shards; run it again to resume."""
    from speechmill.jobs.commands.pack import pack as run_pack

    with _exit_codes():
        run_pack(
            from_overrides(
                PackConfig, [*(overrides or []), f"source={source}", f"output={output}"]
            ),
            Display(console),
        )


@app.command()
def enhance(config: Config, overrides: Overrides = None) -> None:
    """Write shards of original and enhanced audio, for training; run it again to resume.

    Workers run on Ray; workers.count=0 runs in this process, without Ray.
    """
    from speechmill.jobs.commands.enhance import enhance as run_enhance

    with _exit_codes():
        settings = load_config(EnhanceConfig, config, overrides or [])
        totals = run_enhance(settings, ShardDisplay(console, "enhancing"))
    raise typer.Exit(1 if totals.failed else 0)


@app.command()
def evaluate(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare codecs or checkpoints on a test set: table, results.json and report.html."""
    from speechmill.jobs.commands.evaluate import evaluate as run_evaluate

    with _exit_codes():
        settings = load_config(EvaluateConfig, config, overrides or [])
        results = run_evaluate(settings, Display(errors if as_json else console))
    if as_json:
        print(results.to_json(), end="")


@app.command()
def codecs(as_json: AsJson = False) -> None:
    """List the codecs: rates, codebooks, size, licence of the published weights, paper."""
    with _exit_codes():
        found = describe_codecs()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console(width=None if console.is_terminal else 200).print(codecs_table(found))


@app.command()
def examples(
    folder: Annotated[
        Path | None, typer.Argument(help="copy them here; default: copy none")
    ] = None,
) -> None:
    """Say where the example configurations and the sample speech are, or copy them."""
    from speechmill.jobs.commands.examples import FOLDERS, copy_examples, examples_folder

    with _exit_codes():
        if folder is None:
            found = [examples_folder() / name for name in FOLDERS]
        else:
            found = copy_examples(folder)
    for path in found:
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def status(
    output: Dataset,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what a token dataset holds and which shards failed."""
    with _exit_codes():
        settings = from_overrides(StatusConfig, [*(overrides or []), f"output={output}"])
        found = read_status(settings.output, Storage(settings.storage))
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _print_status(found)
    raise typer.Exit(1 if found.failed else 0)


def _print_status(found: Status) -> None:
    table = Table(box=None, show_header=False)
    mark = "" if found.trained else " (untrained)"
    rejects = ", ".join(f"{count} {error}" for error, count in found.rejects.items())
    rows = {
        "dataset": found.root,
        "codec": f"{found.codec}{mark}, revision {found.revision}, {found.precision}",
        "parts": f"{found.parts}",
        "utterances": f"{found.rows:,}",
        "audio": f"{found.audio_hours:,.3f} h",
        "frames": f"{found.frames:,}",
        "rejects": rejects or "0",
        "bad metadata": f"{found.bad_json}",
        "failed shards": f"{len(found.failed)}",
        "last run": _of_run(found.last_run),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    for failure in found.failed:
        console.print(f"failed  {failure['shard']}: {failure['error']}: {failure['message']}")


def _of_run(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "did not end: killed, or still at work"
    held_up = f"; {summary['bottleneck']}" if summary.get("bottleneck") else ""
    return f"{summary['run']}, {summary['status']} after {summary['seconds']:,.0f} s{held_up}"


@app.command()
def verify(
    output: Dataset,
    overrides: Overrides = None,
    reencode: Annotated[int, typer.Option(help="rows to encode again, drawn at random")] = 0,
    keys: Annotated[
        bool | None,
        typer.Option(
            "--keys/--no-keys", help="read the source tars; default: where they can be read"
        ),
    ] = None,
    unique_keys: Annotated[bool, typer.Option(help="no key may occur in two shards")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="share of codes that may differ; default: 0 on the CPU that made them"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the rows that are drawn")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read a token dataset whole and list what is wrong with it; overrides go over its config."""
    from speechmill.jobs.commands.verify import Options, show, to_json
    from speechmill.jobs.commands.verify import verify as run_verify

    with _exit_codes():
        options = Options(keys, unique_keys, reencode, seed, tolerance)
        found, mismatch = run_verify(output, options, overrides or [])
    if as_json:
        print(json.dumps(to_json(found, mismatch), indent=2))
    else:
        show(found, mismatch, console)
    raise typer.Exit(1 if found.faults else 0)


@app.command()
def report(
    output: Dataset,
    overrides: Overrides = None,
    run: Annotated[str | None, typer.Option(help="its id; default: the newest")] = None,
) -> None:
    """Write runs/<run id>/report.html anew, also of a run that was killed."""
    from speechmill.jobs.existing_dataset import open_dataset
    from speechmill.jobs.report.run_page import write_report

    with _exit_codes():
        url = write_report(open_dataset(output, overrides or []), run)
    console.print(url, highlight=False, soft_wrap=True)


@app.command()
def decode(
    dataset: Dataset,
    output: Annotated[
        str, typer.Argument(help="folder for the audio, local or a URL", callback=absolute_path)
    ],
    overrides: Overrides = None,
    codebooks: Annotated[int | None, typer.Option(help="only the first few")] = None,
    limit: Annotated[int | None, typer.Option(help="utterances to decode at most")] = None,
    shards: Annotated[bool, typer.Option(help="a tar for each part, not a file each")] = False,
) -> None:
    """Turn tokens back into audio with the codec that made them, in this process."""
    from speechmill.jobs.commands.decode import decode as run_decode

    with _exit_codes():
        run_decode(
            dataset,
            output,
            codebooks=codebooks,
            limit=limit,
            shards=shards,
            overrides=overrides or [],
            display=Display(console),
        )


@app.command()
def export(
    dataset: Dataset,
    output: Annotated[
        str, typer.Argument(help="folder for the files, local or a URL", callback=absolute_path)
    ],
    overrides: Overrides = None,
    kind: Annotated[str, typer.Option("--format", help="parquet, megatron or npy")] = "parquet",
    pattern: Annotated[str, typer.Option(help="parallel, delay or flatten")] = "parallel",
    codebooks: Annotated[int | None, typer.Option(help="only the first few")] = None,
    shifts: Annotated[
        str, typer.Option(help="rows by which each codebook is delayed, 0,1,2,… if not given")
    ] = "",
    first_id: Annotated[int, typer.Option(help="of flat ids: the size of the text before")] = 0,
) -> None:
    """Write a token dataset in the format and the pattern that a trainer reads."""
    from speechmill.jobs.commands.export import export as run_export

    with _exit_codes():
        run_export(
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


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn errors that a user can cure into one line and an exit code."""
    try:
        yield
    except (KeyboardInterrupt, RunStopped) as error:
        errors.print("interrupted; run the same command again to resume")
        raise typer.Exit(130) from error
    except _USAGE as error:
        errors.print(f"error: {error}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(2) from error
    except SpeechmillError as error:
        message = f"error: {type(error).__name__}: {error}"
        errors.print(message, highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point of the `speechmill` command."""
    # Child processes must not import a user's json.py from the working directory.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    app(prog_name="speechmill")


if __name__ == "__main__":
    main()
