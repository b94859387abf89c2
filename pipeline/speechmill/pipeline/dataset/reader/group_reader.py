"""Single row groups of a token dataset."""

from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.row_groups import RowGroup, checked_footer, row_groups_of
from speechmill.pipeline.errors import InputError, StorageNotFound

_KEPT_PARTS = 64  # whose Parquet metadata is kept


class GroupReader:
    """Reads some columns of a dataset, from threads too."""

    def __init__(self, dataset: TokenDataset, identity: dict[str, Any], columns: tuple[str, ...]):
        self._dataset = dataset
        self._identity = identity  # when the dataset was listed
        self._columns = list(columns)
        self._part = lru_cache(_KEPT_PARTS)(self._read_part)

    def read(self, group: RowGroup) -> pa.Table:
        """The columns, but for those that the part lacks, such as `channel`.

        Raises `InputError` if the part is damaged, gone, or not the one that was listed, and
        `DatasetConflict` if it is of another dataset.
        """
        url = self._dataset.part_url(group.part)
        try:
            metadata, groups = self._part(group.part)
            if group not in groups[group.number : group.number + 1]:
                raise InputError(
                    f"{url} was replaced since the dataset was listed; make the reader again to "
                    "read the rows that it has now"
                )
            with readable(url), self._dataset.storage.open(url) as stream:
                file = pq.ParquetFile(
                    stream, metadata=metadata, pre_buffer=True, page_checksum_verification=True
                )
                table = file.read_row_group(group.number, self._columns, use_threads=False)
                if len(set(table.column_names)) < len(table.column_names):
                    raise ValueError(f"a column is there twice: {table.column_names}")
                return table
        except StorageNotFound as error:
            raise InputError(
                f"{url} is gone since the dataset was listed; make the reader again to read the "
                "parts that are there"
            ) from error

    def _read_part(self, name: str) -> tuple[pq.FileMetaData, list[RowGroup]]:
        metadata = self._dataset.metadata(name)
        checked_footer(self._dataset, self._identity, name, metadata)
        with readable(self._dataset.part_url(name)):
            num_codebooks = len(self._identity["codebook_sizes"])
            return metadata, row_groups_of(metadata, name, num_codebooks)
