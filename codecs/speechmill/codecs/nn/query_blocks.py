"""Blocks of queries, whose dense biases are in memory one block after the other."""

BLOCK = 1024  # queries


def query_blocks(queries: int) -> list[slice]:
    """Return the blocks; the last one is the longest.

    A CPU's attention kernel computes long blocks in the same steps as the whole, so the result is
    the same to the last bit.
    """
    if queries < 2 * BLOCK:  # compiled code then serves all of these numbers
        return [slice(0, queries)]
    starts = list(range(0, queries - BLOCK + 1, BLOCK))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], queries], strict=True)]
