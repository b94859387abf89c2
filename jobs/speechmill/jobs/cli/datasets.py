"""The commands that read a token dataset."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from speechmill.jobs.cli.app import AsJson, Dataset, Overrides, app, console, exit_codes
from speechmill.jobs.display import Display, print_line
from speechmill.pipeline.paths import absolute_path


@app.command("status")
def status_command(output: Dataset, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a token dataset holds and which shards failed."""
    from speechmill.jobs.commands.status import print_status, read_status
    from speechmill.jobs.existing_dataset import open_dataset

    with exit_codes():
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

    with exit_codes():
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

    with exit_codes():
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

    with exit_codes():
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

    with exit_codes():
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


@app.command("compact")
def compact_command(
    dataset: Dataset,
    output: Annotated[
        str, typer.Argument(help="new folder, local or a URL", callback=absolute_path)
    ],
    overrides: Overrides = None,
    file_mb: Annotated[float, typer.Option(help="largest size of a file, about")] = 384.0,
    without_failed: Annotated[
        bool, typer.Option(help="compact although shards failed, without them")
    ] = False,
) -> None:
    """Write a token dataset of many parts as few large files; run it again to resume."""
    from speechmill.jobs.commands.compact import compact_dataset

    with exit_codes():
        compact_dataset(
            dataset,
            output,
            file_mb=file_mb,
            without_failed=without_failed,
            overrides=overrides or [],
            display=Display(console),
        )
