"""How many workers a cluster gets, and how many shards each of them."""

import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.run.job import (
    WorkerSettings,
    check_decode_cpus,
    decode_streams,
    worker_count,
)


@pytest.mark.parametrize(
    ("decode_cpus", "cpus", "workers", "expected"),
    [(1.0, 16, 2, 8), (0.5, 4, 1, 8), (4.0, 2, 1, 1), (1.0, 96, 1, 64), (0.0, 2, 1, 64)],
)
def test_a_worker_decodes_as_many_shards_as_its_share_of_the_cpus_can_up_to_64(
    decode_cpus: float, cpus: int, workers: int, expected: int
) -> None:
    settings = WorkerSettings(decode_cpus=decode_cpus)
    assert decode_streams(settings, {"CPU": cpus}, workers) == expected


def test_there_is_one_worker_on_cpus_and_one_for_each_share_of_a_gpu() -> None:
    assert worker_count(0, [{"CPU": 64}]) == 1
    assert worker_count(0.5, [{"GPU": 2}, {"CPU": 8}, {"GPU": 1}]) == 6
    with pytest.raises(InputError, match=r"has 0 GPUs, a worker wants 1; .*workers\.num_gpus=0"):
        worker_count(1, [{"CPU": 8}])


def test_gpus_of_two_nodes_do_not_add_up_to_one_worker() -> None:
    assert worker_count(2, [{"GPU": 3}, {"GPU": 1}]) == 1
    with pytest.raises(InputError, match="has 2 GPUs, at most 1 on a node, a worker wants 2;"):
        worker_count(2, [{"GPU": 1}, {"GPU": 1}])


def test_a_decode_stream_that_fits_on_no_node_is_refused_with_both_numbers() -> None:
    check_decode_cpus(WorkerSettings(decode_cpus=4), [{"CPU": 2}, {"CPU": 4}])
    with pytest.raises(InputError, match=r"wants 4 CPUs, and no node .* has more than 2;"):
        check_decode_cpus(WorkerSettings(decode_cpus=4), [{"CPU": 2}, {"CPU": 2}])
