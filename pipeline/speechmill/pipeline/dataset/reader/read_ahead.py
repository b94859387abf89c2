"""Row groups, read some steps before they are needed."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.row_groups import RowGroup
from speechmill.pipeline.errors import InputError, StorageNotFound

_THREADS = 2  # one reads while the other decompresses
_OPEN_PARTS = 64  # whose Parquet metadata is kept


class GroupReader:
    """Reads some columns of single row groups of a dataset."""

    def __init__(self, dataset: TokenDataset, columns: tuple[str, ...]):
        self._dataset = dataset
        self._columns = list(columns)
        self._metadata = lru_cache(_OPEN_PARTS)(dataset.metadata)

    def read(self, group: RowGroup) -> pa.Table:
        """The columns, but for those that the part lacks, such as `channel`.

        Raises `InputError` if the part is damaged, gone, or not the one that was listed.
        """
        url = self._dataset.part_url(group.part)
        try:
            metadata = self._metadata(group.part)
            with readable(url), self._dataset.storage.open(url) as stream:
                file = pq.ParquetFile(
                    stream, metadata=metadata, pre_buffer=True, page_checksum_verification=True
                )
                unchanged = (
                    group.number < metadata.num_row_groups
                    and metadata.row_group(group.number).num_rows == group.rows
                )
                if unchanged:
                    return file.read_row_group(group.number, self._columns, use_threads=False)
        except StorageNotFound as error:
            raise InputError(
                f"{url} is gone since the dataset was listed; make the reader again to train on "
                "the parts that are there"
            ) from error
        raise InputError(
            f"{url} was replaced since the dataset was listed; make the reader again to train on "
            "its new rows"
        )

    def read_ahead(
        self, groups: Iterable[RowGroup], max_bytes: int, bytes_per_frame: int
    ) -> Iterator[pa.Table]:
        """The tables of the groups, in their order.

        Those that wait have codes of at most `max_bytes`, or are one.
        """
        waiting: deque[tuple[int, Future[pa.Table]]] = deque()
        held, source = 0, iter(groups)
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
        try:
            while True:
                while held < max_bytes and (group := next(source, None)):
                    num_bytes = group.frames * bytes_per_frame
                    waiting.append((num_bytes, threads.submit(self.read, group)))
                    held += num_bytes
                if not waiting:
                    return
                num_bytes, future = waiting.popleft()
                held -= num_bytes
                yield future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
