"""Names for the rows and parts of a dataset, whose keys and tars strangers named."""

import hashlib
import re
from collections.abc import Iterator

import pyarrow as pa

from speechmill.pipeline.paths import safe_name, safe_names
from speechmill.pipeline.tokenize.schema import channels_of, row_name

# Lists of files are split at white space, and globs, brace ranges and kaldi's scp know the others.
_NOT_IN_STEMS = re.compile(r"[^\w.+=@-]|^[.-]")


def file_names(table: pa.Table, suffix: str) -> list[str]:
    """A distinct name below the output for each row of a part, without the suffix."""
    return safe_names(_row_names(table), suffix)


class RowNames:
    """Gives each row a name that no other row has had: nearly always its key.

    `-` stands for what is forbidden; the second row of a name gets `~2`.
    """

    def __init__(self, forbidden: re.Pattern[str]):
        self._forbidden = forbidden
        self._uses: dict[str, int] = {}

    def of(self, table: pa.Table) -> list[str]:
        """The names of some rows."""
        names = (self._forbidden.sub("-", safe_name(name)) for name in _row_names(table))
        return [self._distinct(name) for name in names]

    def _distinct(self, wanted: str) -> str:
        name = wanted
        while name in self._uses:
            self._uses[wanted] += 1
            name = f"{wanted}~{self._uses[wanted]}"
        self._uses[name] = 1
        return name


def part_stem(name: str) -> str:
    """The name of a part as a file name without white space, wildcards and brackets.

    A name that needs another spelling gets a digest.
    """
    plain = safe_name(_NOT_IN_STEMS.sub("_", name))
    if plain == name:
        return name
    return f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _row_names(table: pa.Table) -> Iterator[str]:
    starts = table["start"].to_pylist()
    places = zip(table["key"].to_pylist(), starts, channels_of(table), strict=True)
    return (row_name(*place) for place in places)
