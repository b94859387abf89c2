"""The commands that read a token dataset."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from speechmill.jobs.cli.app import AsJson, Dataset, Overrides, app, console, exit_codes
from speechmill.jobs.display import Display, print_line
from speechmill.pipeline.paths import absolute_path


def absolute_or_bytes(tokenizer: str) -> str:
    """The word `bytes` as it is, and another path absolute."""
    return tokenizer if tokenizer == "bytes" else absolute_path(tokenizer)


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
    html: Annotated[
        str | None,
        typer.Option(
            help="where to write the page, local or a URL; default: OUTPUT/report.html",
            parser=absolute_path,
            metavar="FILE",
        ),
    ] = None,
    audio: Annotated[int, typer.Option(help="utterances to listen to, up to 100; 0: none")] = 12,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="folder of source tars, local or a URL, for the originals; may be repeated",
            parser=absolute_path,
            metavar="URL",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of what is chosen by chance")] = 0,
    run: Annotated[
        str | None, typer.Option(help="id of a run: write its runs/<run id>/report.html again")
    ] = None,
) -> None:
    """Write one HTML page about a token dataset and all its runs.

    Source tars are read only below --source, because a dataset of others may name any file.
    """
    from speechmill.jobs.commands.report import report_dataset, report_run
    from speechmill.jobs.report.dataset_page import PageOptions

    with exit_codes():
        if run is None:
            options = PageOptions(audio, tuple(source or ()), seed)
            url = report_dataset(output, options, overrides or [], html)
        else:
            url = report_run(output, run, overrides or [], html)
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
    kind: Annotated[
        str,
        typer.Option("--format", help="parquet, hf, megatron, webdataset, lhotse, kaldi or memmap"),
    ] = "parquet",
    where: Annotated[
        str | None, typer.Option(help="condition on the columns of a row: 'duration > 1'")
    ] = None,
    codebooks: Annotated[
        int | None, typer.Option(help="use only so many of the codebooks, the first ones")
    ] = None,
    pattern: Annotated[
        str,
        typer.Option(
            help="parallel, delay, groups, flatten, codebook-major, coarse-fine or semantic"
        ),
    ] = "parallel",
    flat: Annotated[
        bool, typer.Option("--flat", help="write the rows of a pattern as one sequence of ids")
    ] = False,
    shifts: Annotated[
        str | None, typer.Option(help="delay: rows of delay of each codebook; default: 0,1,2,…")
    ] = None,
    coarse: Annotated[
        int | None, typer.Option(help="coarse-fine: number of coarse codebooks; default: 1")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="groups: frames of a row; default: 2")] = None,
    first_id: Annotated[
        int | None, typer.Option(help="first id of the codes: the size of the text vocabulary")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="write documents with text: none, before, after or interleaved"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="template: a tokenizer.json; default: bytes",
            parser=absolute_or_bytes,
            metavar="FILE",
        ),
    ] = None,
    text_size: Annotated[
        int | None, typer.Option(help="template: ids of text; default: those of the tokenizer")
    ] = None,
    multiple: Annotated[
        int | None, typer.Option(help="template: round the number of ids up to a multiple of it")
    ] = None,
    without_text: Annotated[
        str | None, typer.Option(help="template: keep (default) or skip rows without text")
    ] = None,
) -> None:
    """Write a token dataset in the format and the pattern that a trainer reads."""
    from speechmill.jobs.commands.export import ExportOptions, export

    with exit_codes():
        options = ExportOptions(
            format=kind,
            where=where,
            codebooks=codebooks,
            pattern=pattern,
            flat=flat,
            shifts=shifts,
            coarse=coarse,
            frames=frames,
            first_id=first_id,
            template=template,
            tokenizer=tokenizer,
            text_size=text_size,
            multiple=multiple,
            without_text=without_text,
        )
        export(dataset, output, options, overrides or [], Display(console))


@app.command("compact")
def compact_command(
    dataset: Dataset,
    output: Annotated[
        str, typer.Argument(help="new folder, local or a URL", callback=absolute_path)
    ],
    overrides: Overrides = None,
    file_mb: Annotated[float, typer.Option(help="largest size of a file, about")] = 512.0,
    without_failed: Annotated[
        bool, typer.Option(help="compact although shards failed, without them")
    ] = False,
    threads: Annotated[
        int, typer.Option(help="files at the same time; each takes 1.5 times its size in memory")
    ] = 2,
) -> None:
    """Write a token dataset of many parts as few large files; run it again to resume."""
    from speechmill.jobs.commands.compact import compact_dataset

    with exit_codes():
        compact_dataset(
            dataset,
            output,
            file_mb=file_mb,
            without_failed=without_failed,
            threads=threads,
            overrides=overrides or [],
            display=Display(console),
        )


@app.command("drop")
def drop_command(
    output: Dataset,
    overrides: Overrides = None,
    keys: Annotated[
        str | None,
        typer.Option(
            help="file of keys: one on each line, or .jsonl, .csv, .tsv or .parquet with the "
            "column key or audio_xxh3",
            parser=absolute_path,
            metavar="FILE",
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help='drop the rows for which this is true: "duration < 1"')
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="say what would be dropped, write nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Take rows out of a token dataset, and keep them out when it is resumed.

    Without --keys and --where, drops again what earlier calls recorded.
    """
    from speechmill.jobs.commands.drop import drop_from_dataset, print_dropped

    with exit_codes():
        found = drop_from_dataset(output, keys, where, dry_run, overrides or [])
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            print_dropped(found, console)


@app.command("duplicates")
def duplicates_command(
    output: Dataset,
    others: Annotated[
        list[str] | None, typer.Argument(help="more datasets, and key=value of the store")
    ] = None,
    by: Annotated[
        str, typer.Option(help="audio: equal files; codes: equal codes, of one codec")
    ] = "audio",
    where: Annotated[
        str | None, typer.Option(help='compare only rows for which this is true: "duration > 1"')
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            "--output",
            help="write all but the first of each group, for `speechmill drop --keys`: "
            ".jsonl, .csv, .tsv or .parquet",
            parser=absolute_path,
            metavar="FILE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List recordings or rows that are in token datasets more than once."""
    from speechmill.jobs.commands.duplicates import (
        print_duplicates,
        report_duplicates,
        split_arguments,
    )

    with exit_codes():
        roots, overrides = split_arguments(others or [])
        roots = [output, *map(absolute_path, roots)]
        found = report_duplicates(roots, by, where, keys, overrides)
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            print_duplicates(found, console)
