"""The rows of a token dataset shard by shard, whether each shard has a file or shares one."""

from collections.abc import Collection, Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.layout import TokenDataset, readable, shard_of
from speechmill.pipeline.dataset.sections import Section, sections_in
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.tokenize.writer import footer_of


def open_parquet(file: IO[bytes]) -> pq.ParquetFile:
    """A file of rows: checksums are verified, and equal metadata is in memory once."""
    return pq.ParquetFile(file, page_checksum_verification=True, read_dictionary=["metadata"])


class RowReader:
    """Reads stretches of the rows of a file; the row group of the last one stays in memory."""

    def __init__(self, file: pq.ParquetFile, columns: Sequence[str] | None = None):
        """Columns that the file lacks, such as `channel`, are left out."""
        self._file = file
        self._columns = columns
        self._group: tuple[int, pa.Table] | None = None
        self._starts = [0]
        for number in range(file.num_row_groups):
            self._starts.append(self._starts[-1] + file.metadata.row_group(number).num_rows)

    def rows(self, first: int, stop: int) -> pa.Table:
        """These rows, or as many of them as there are."""
        tables = [self._file.schema_arrow.empty_table()]
        if self._columns is not None:
            names = [name for name in self._columns if name in tables[0].column_names]
            tables = [tables[0].select(names)]
        for number, start in enumerate(self._starts[:-1]):
            if start < stop and first < self._starts[number + 1]:
                low = max(first - start, 0)
                tables.append(self._read(number).slice(low, stop - start - low))
        return pa.concat_tables(tables[1:] or tables)

    def _read(self, number: int) -> pa.Table:
        if self._group is None or self._group[0] != number:
            self._group = None  # free it before the next one is read
            self._group = number, self._file.read_row_group(number, self._columns)
        return self._group[1]


def read_sections(
    dataset: TokenDataset, columns: Sequence[str], skip: Collection[str] = ()
) -> Iterator[tuple[Section, pa.Table]]:
    """Each shard of a dataset with its rows, but those whose parts are named by `skip`.

    Raises `InputError` for a file that is damaged.
    """
    for file in sorted(dataset.parts()):
        if file not in skip:
            with dataset.storage.open(dataset.part_url(file)) as stream:
                yield from _sections_in(stream, file, dataset.part_url(file), columns, skip)


def _sections_in(
    stream: IO[bytes], file: str, url: str, columns: Sequence[str], skip: Collection[str]
) -> Iterator[tuple[Section, pa.Table]]:
    with readable(url):
        parquet = pq.ParquetFile(stream)
        sections = sections_in(file, footer_of(parquet.metadata))
        check_rows_counted(sections, parquet.metadata)
        reader = RowReader(parquet, columns)
    for section in sections:
        if section.part not in skip:
            with readable(url):
                rows = reader.rows(section.first, section.first + section.rows)
            yield section, rows


def check_rows_counted(sections: Sequence[Section], metadata: pq.FileMetaData) -> None:
    """Raise `ValueError` if the sections of a file are not all of its rows."""
    if (counted := sum(section.rows for section in sections)) != metadata.num_rows:
        raise ValueError(f"its footer counts {counted} rows, there are {metadata.num_rows}")


def sections_below(dataset: TokenDataset, roots: Roots) -> list[Section]:
    """The sections of shards whose tars lie below the roots, in the order of the dataset."""
    names = sorted(dataset.parts())
    found = []
    for name, footer in zip(names, dataset.footers(names), strict=True):
        with readable(dataset.part_url(name)):
            sections = sections_in(name, footer)
            found += [one for one in sections if roots.hold(shard_of(one.footer).url)]
    return found
