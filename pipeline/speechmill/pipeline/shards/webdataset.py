"""Our tars for users of the `webdataset` library: a strict source of samples, and a writer.

`webdataset` imports torch and is imported only where a tar is written.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import InputError, SampleError, ShardError, StorageError
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.shards.tar_reader import Reject, read_samples
from speechmill.pipeline.storage import Storage

_UNWRITABLE = {"", "__key__"}  # suffixes that a WebDataset sample cannot hold


def _raise(error: Exception) -> bool:
    raise error


@dataclass(frozen=True)
class StrictSamples:
    """A source of samples for `wds.DataPipeline` that never loses a sample silently.

    `webdataset` takes a cut or damaged tar for a shorter one. This source raises `ShardError`
    there, and `SampleError` for members that cannot be part of a sample. It yields what
    `wds.WebDataset` yields: `__key__`, `__url__` and the bytes of each member by suffix. Only names
    such as `x_0.5.flac` and `x_0.5.json` have another key: `x_0.5` here, `x_0` there; and what
    macOS adds to archives is passed over.

    With `urls` it is the first stage; they may be tars, folders, globs and brace ranges. Without
    `urls` it takes the place of `wds.tarfile_to_samples()` after a stage that yields dicts with
    `url`. Several nodes or DataLoader workers need this form, so that each reads its own shards:

        wds.DataPipeline(StrictSamples(["s3://bucket/shards/"]), wds.decode())
        wds.DataPipeline(wds.SimpleShardList(urls), wds.split_by_worker, StrictSamples())

    `handler` is one of `webdataset`'s, such as `wds.warn_and_continue`: for an error in a tar, it
    decides whether to raise it, to go on, or to stop.
    """

    urls: str | Sequence[str] = ()
    storage: Storage = field(default_factory=Storage)
    max_member_bytes: int = sys.maxsize
    handler: Callable[[Exception], bool] = _raise

    def __call__(self, source: Iterable[Mapping[str, Any]] = ()) -> Iterator[dict[str, Any]]:
        urls = [self.urls] if isinstance(self.urls, str) else self.urls
        shards = list_shards(urls, self.storage) if urls else self._shards(source)
        for shard in shards:
            try:
                for sample in read_samples(shard, self.storage, self.max_member_bytes):
                    if isinstance(sample, Reject):
                        reason = f"{shard.url}, {sample.member}: {sample.error}: {sample.message}"
                        if not self.handler(SampleError(reason)):
                            return
                        continue
                    members = {suffix: data[:] for suffix, data in sample.members.items()}
                    yield members | {"__key__": sample.key, "__url__": shard.url}
            except (ShardError, StorageError) as error:
                if not self.handler(error):
                    return

    def _shards(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Shard]:
        for item in source:
            if "url" not in item:
                raise InputError(f"the stage before StrictSamples yields {item!r} without `url`")
            info = self.storage.info(item["url"])
            yield Shard(info.url, info.size, info.etag)


class SampleWriter:
    """Writes samples into a tar; equal samples give equal bytes.

    The headers hold neither a time nor an owner, and the members keep their order.
    """

    def __init__(self, file: IO[bytes]):
        from webdataset import TarWriter

        self._tar = TarWriter(
            file, user="", group="", mode=0o644, mtime=0, encoder=False, keep_meta=True
        )

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def write(self, key: str, members: Mapping[str, Blob]) -> None:
        """Add `<key>.<suffix>` for each member; raises `SampleError` if a suffix is reserved."""
        if unwritable := _UNWRITABLE & members.keys():
            names = ", ".join(f"{key}.{suffix}" for suffix in unwritable)
            raise SampleError(f"{names} cannot be a member of a WebDataset sample; rename it")
        for suffix, data in members.items():  # one by one: TarWriter sorts what it gets at once
            self._tar.write({"__key__": key, suffix: data[:]})
