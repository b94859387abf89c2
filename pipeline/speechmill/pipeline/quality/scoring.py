"""Score many pairs in parallel processes, since most of the libraries use one core."""

import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TypeVar

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.distillmos import distillmos
from speechmill.pipeline.quality.dnsmos import dnsmos
from speechmill.pipeline.quality.signal import SIGNAL_METRICS

Scores = dict[str, float | None]
Tag = TypeVar("Tag")

_AHEAD = 4  # pairs that wait for each core


@dataclass(frozen=True)
class Scorer:
    """Scores one pair at 16 kHz with the named metrics, and with predictors of ratings."""

    names: Sequence[str]
    dnsmos_model: str | None = None  # path or URL; None: without DNSMOS
    with_distillmos: bool = False

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in SIGNAL_METRICS:
                known = ", ".join(SIGNAL_METRICS)
                raise InputError(f"no metric {name!r} in metrics.signal; known: {known}")

    def __call__(self, reference_T: Samples | None, estimate_T: Samples) -> Scores:
        """Score float32 audio at 16 kHz; without a reference, only by what needs none."""
        scores: Scores = {}
        if reference_T is not None:
            scores |= {name: SIGNAL_METRICS[name](reference_T, estimate_T) for name in self.names}
        if self.dnsmos_model:
            rated = dnsmos(estimate_T, self.dnsmos_model)
            scores |= {f"dnsmos_{name}": value for name, value in asdict(rated).items()}
        if self.with_distillmos:
            scores["distillmos"] = distillmos(estimate_T)
        # A codec may give audio that is not finite.
        return {n: s if s is not None and math.isfinite(s) else None for n, s in scores.items()}


@contextmanager
def scoring_processes(count: int | None) -> Iterator[Executor | None]:
    """Yield that many processes, by default one for each core; None for one process."""
    count = count or len(os.sched_getaffinity(0))
    if count == 1:
        yield None
        return
    # Forking a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_use_one_thread) as processes:
        yield processes


def scored(
    pairs: Iterable[tuple[Tag, Samples | None, Samples]],
    scorer: Callable[[Samples | None, Samples], Scores],
    processes: Executor | None,
) -> Iterator[tuple[Tag, Scores]]:
    """Yield the tag and the scores of each pair, in order."""
    if processes is None:
        for tag, reference_T, estimate_T in pairs:
            yield tag, scorer(reference_T, estimate_T)
        return
    waiting: deque[tuple[Tag, Future[Scores]]] = deque()
    ahead = _AHEAD * len(os.sched_getaffinity(0))
    for tag, reference_T, estimate_T in pairs:
        waiting.append((tag, processes.submit(scorer, reference_T, estimate_T)))
        if len(waiting) > ahead:
            tag, future = waiting.popleft()
            yield tag, future.result()
    while waiting:
        tag, future = waiting.popleft()
        yield tag, future.result()


def _use_one_thread() -> None:
    import torch

    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL uses Numba where it is installed
    torch.set_num_threads(1)
