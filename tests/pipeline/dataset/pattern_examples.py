"""Random patterns, and utterances of random lengths for them."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from speechmill.pipeline.dataset.documents import Utterances, utterances_of
from speechmill.pipeline.dataset.pattern import Pattern
from speechmill.pipeline.dataset.patterns import PATTERNS, make_pattern


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    name = draw(st.sampled_from(sorted(PATTERNS)))
    least = 2 if name == "coarse-fine" else 1
    sizes = draw(st.lists(st.integers(1, 70_000), min_size=least, max_size=6))
    settings: dict[str, Any] = {}
    if name == "coarse-fine":
        settings["coarse"] = draw(st.integers(1, len(sizes) - 1))
    if name == "groups":
        settings["frames"] = draw(st.integers(1, 5))
    if name == "delay":
        shifts = st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes))
        settings["shifts"] = draw(st.just([]) | shifts)
    pattern = make_pattern(name, sizes, **settings)
    return pattern.flat() if draw(st.booleans()) else pattern


frame_counts = st.lists(st.integers(0, 12), max_size=6)


def utterances(sizes: tuple[int, ...], frames: list[int], **columns: Any) -> Utterances:
    """Rows of random codes, as they are read from a dataset."""
    draw = np.random.default_rng(len(frames)).integers
    codes = [draw(0, sizes, (count, len(sizes))).reshape(-1) for count in frames]
    kind = pa.uint16() if max(sizes) <= 2**16 else pa.uint32()
    table = {"codes": pa.array(codes, pa.list_(kind)), **columns}
    return utterances_of(pa.table(table), len(sizes))


def split(array: Any, lengths: Any) -> list[Any]:
    return np.split(array, np.cumsum(lengths)[:-1]) if len(lengths) else []
