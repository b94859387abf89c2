"""What all commands share: the terminal, common arguments and exit codes.

Exit codes: 0 all done, 1 some shards failed or verify found a fault, 2 usage or configuration,
130 interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from speechmill.codecs.errors import CodecError
from speechmill.jobs.display import print_line
from speechmill.pipeline.errors import (
    DatasetConflict,
    InputError,
    NodeUnfit,
    RunStopped,
    SpeechmillError,
    StorageDenied,
    StorageNotFound,
)
from speechmill.pipeline.paths import absolute_path
from speechmill.pipeline.text import message_of

app = typer.Typer(
    help="Speech corpora in WebDataset shards to token corpora in Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)

_USAGE = (InputError, DatasetConflict, CodecError, NodeUnfit, StorageDenied, StorageNotFound)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, replaces a value of the configuration")
]
Config = Annotated[Path, typer.Argument(help="YAML file, see `speechmill examples`")]
Dataset = Annotated[
    str, typer.Argument(help="folder of a token dataset, local or a URL", callback=absolute_path)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for a script")]


@contextmanager
def exit_codes() -> Iterator[None]:
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
