import torch.distributed as dist
import torch.multiprocessing as mp

from speechmill.pipeline.dataset.reader import even_batches

COUNTS = (3, 5)  # batches of each rank


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(COUNTS)
    )
    own = [f"{rank}-{number}" for number in range(COUNTS[rank])]
    lines = [" ".join(even_batches(own, repeat=repeat)) for repeat in (False, True)]
    with open(f"{folder}/{rank}", "w") as file:  # noqa: PTH123
        file.write("\n".join(lines))
    dist.destroy_process_group()


def test_ranks_stop_together_at_the_end_of_the_first_or_of_the_last(tmp_path):
    mp.start_processes(run_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    found = [(tmp_path / str(rank)).read_text().splitlines() for rank in range(2)]
    assert found[0] == ["0-0 0-1 0-2", "0-0 0-1 0-2 0-2 0-2"]
    assert found[1] == ["1-0 1-1 1-2", "1-0 1-1 1-2 1-3 1-4"]
