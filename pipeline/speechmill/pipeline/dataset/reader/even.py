"""Equal numbers of batches on all ranks, however many each has."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from speechmill.pipeline.errors import InputError

BatchT = TypeVar("BatchT")


def even_batches(
    batches: Iterable[BatchT], *, repeat: bool = False, group: dist.ProcessGroup | None = None
) -> Iterator[BatchT]:
    """The batches of this rank, until all ranks of the group stop at the same step.

    They stop when one of them has no further batch, and what the others have left of this epoch
    is not given out. With `repeat` they stop when none has one, and until then a rank without
    further batches repeats its last one, so that nothing is left out. Each step asks all ranks by
    an all_reduce of one number. Raises `InputError` on all ranks if one that must repeat has none.
    """
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    remaining = iter(batches)
    batch = next(remaining, None)
    if repeat and not _reduced(batch is not None, dist.ReduceOp.MIN, device, group):
        raise InputError("a rank has no batch to repeat; use fewer ranks")
    operation = dist.ReduceOp.MAX if repeat else dist.ReduceOp.MIN
    following = batch
    while _reduced(following is not None, operation, device, group):
        batch = batch if following is None else following
        assert batch is not None
        yield batch
        following = next(remaining, None)


def _reduced(
    flag: bool, operation: dist.ReduceOp.RedOpType, device: str, group: dist.ProcessGroup | None
) -> bool:
    number = torch.tensor(int(flag), device=device)
    dist.all_reduce(number, operation, group)
    return bool(number.item())
