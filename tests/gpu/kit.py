"""What all steps of the kit share: where they run, how much they do, how results are kept."""

import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OUT = Path(os.environ.get("OUT", Path(tempfile.gettempdir()) / "measured"))
START = float(os.environ.get("START", time.time()))  # of all steps
DRY_RUN = "--cpu" in sys.argv
DEVICE = "cpu" if DRY_RUN else "cuda"
_NO_KERNEL = "could not create a primitive"  # oneDNN on a CPU without instructions for bf16


def sized(full: Any, tiny: Any) -> Any:
    """Return how much to measure: `full` on a GPU, `tiny` in a dry run."""
    return tiny if DRY_RUN else full


def emit(**facts: Any) -> None:
    """Append one result to results.jsonl and print it."""
    line = json.dumps({"t": round(time.time() - START, 1), **facts})
    with (OUT / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (OUT / "results.jsonl").read_text().splitlines()]


@contextmanager
def attempt(what: str, **facts: Any) -> Iterator[None]:
    """Record an error as a result, so that one failure does not stop the other measurements."""
    try:
        yield
    except (Exception, SystemExit) as error:
        message = str(error)[:600]
        if DRY_RUN and _NO_KERNEL in message:
            emit(step=what, skipped=f"this CPU has no kernel for it: {message}", **facts)
            return
        where = traceback.format_exc()[-900:]
        emit(failed=what, error=type(error).__name__, message=message, where=where, **facts)
        _free_device_memory()


def collect_garbage() -> None:
    """Free tensors that refer to each other in a circle; a dry run has none that matter."""
    if DEVICE == "cuda":
        gc.collect()


def _free_device_memory() -> None:
    if DEVICE == "cuda":
        import torch

        collect_garbage()
        with suppress(Exception):  # a device that is broken cannot free its memory
            torch.cuda.empty_cache()


def seconds_left() -> float:
    """Return how many seconds the step may still take."""
    return float(os.environ["STEP_END"]) - time.time()
