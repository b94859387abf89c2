"""Kernels can be counted without a GPU, and the count is the same every time."""

from speechmill.codecs.focalcodec.published import read_focalcodec_config
from tests.bench.count_kernels import Counts, count
from tests.bench.full_size import focalcodec
from tests.codecs.focalcodec.small import tiny


def tiny_counts() -> Counts:
    return count(*focalcodec(read_focalcodec_config("focalcodec-50hz", tiny())), "bf16")


def test_two_counts_are_equal_and_no_operation_makes_the_host_wait() -> None:
    first, second = tiny_counts(), tiny_counts()
    assert first == second
    assert (first.copies, first.syncs) == (0, [])
    products = [name for name in first.by_op if name.startswith("addmm b16")]
    assert len(products) > 5, "autocast is not in force, or linear layers are not counted"
