"""A recording that is read block by block; samples are discarded after their last use."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from speechmill.pipeline.audio.samples import Samples


class SampleBuffer:
    """Positions count samples from the start of the recording."""

    def __init__(self, blocks: Iterator[Samples]):
        self.end = 0  # position after the last sample read
        self.finished = False
        self._blocks = blocks
        self._held: deque[tuple[int, Samples]] = deque()

    def read_to(self, stop: int) -> None:
        """Read until `stop` or the end of the recording, whichever comes first."""
        while self.end < stop and not self.finished:
            block_T = next(self._blocks, None)
            if block_T is None:
                self.finished = True
            elif len(block_T):
                self._held.append((self.end, block_T))
                self.end += len(block_T)

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` to `stop`, which must have been read and not discarded."""
        parts = [
            block_T[max(0, start - begin) : stop - begin]
            for begin, block_T in self._held
            if begin < stop and begin + len(block_T) > start
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def discard_before(self, position: int) -> None:
        while self._held and self._held[0][0] + len(self._held[0][1]) <= position:
            self._held.popleft()


def shared(blocks: Iterator[Samples], count: int) -> list[Iterator[Samples]]:
    """Several readers of one stream; each holds the blocks that the others have read ahead of it.

    What the stream raises, every reader raises: to none is it a shorter recording.
    `itertools.tee` would keep dozens of blocks that all readers have passed.
    """
    queues: list[deque[Samples]] = [deque() for _ in range(count)]
    failed: list[Exception] = []

    def reader(own: deque[Samples]) -> Iterator[Samples]:
        while True:
            if not own:
                block_T = following()
                if block_T is None:
                    return
                for queue in queues:
                    queue.append(block_T)
            yield own.popleft()

    def following() -> Samples | None:
        if failed:
            raise failed[0]
        try:
            return next(blocks, None)
        except Exception as error:
            failed.append(error)
            raise

    return [reader(queue) for queue in queues] if count > 1 else [blocks]
