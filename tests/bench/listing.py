"""How long a resumed run needs to find the shards that are left, on an S3 store.

    python -m tests.bench.listing [--shards 10000] [--done 0.99]
    eval "$(infra/s3/rgw.sh start)"
    python -m tests.bench.listing --bucket s3://listing --shards 100000
    python -m tests.bench.listing --no-store --shards 1000000

Without a bucket the store is moto, in this process. It searches all its keys for each page, so look
at the number of requests, not at the seconds. With a bucket, the store is that of AWS_ENDPOINT_URL,
and the seconds are meaningful; filling the bucket takes minutes. With `--no-store`, pages of names
come from this process, to find the CPU time and the memory of the driver over a million shards.
"""

import argparse
import logging
import os
import resource
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import s3fs
from aiobotocore.client import AioBaseClient
from moto.server import ThreadedMotoServer

from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage
from tests.s3_server import fill_moto

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret"}
NOBODY = "s3://nobody"


def count_requests() -> Counter[str]:
    """Count the calls of this process to S3 by operation."""
    calls: Counter[str] = Counter()
    call = AioBaseClient._make_api_call

    async def counted(self: Any, operation: str, arguments: Any) -> Any:
        calls[operation] += 1
        return await call(self, operation, arguments)

    AioBaseClient._make_api_call = counted
    return calls


@contextmanager
def store(bucket: str | None) -> Iterator[str]:
    """The URL of an empty place: a new bucket in moto, or a new folder of the given bucket."""
    if bucket:
        s3fs.S3FileSystem().makedirs(bucket, exist_ok=True)
        yield f"{bucket}/{uuid.uuid4().hex}"
        return
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    s3fs.S3FileSystem().mkdir("s3://listing")
    yield "s3://listing"
    server.stop()


def fill(root: str, names: Iterable[str], real: bool) -> None:
    if real:
        objects = {f"{root}/{name}": b"shard" for name in names}
        s3fs.S3FileSystem().pipe(objects, batch_size=64)
    else:
        fill_moto(root, names)


@contextmanager
def no_store(num_shards: int, done: float) -> Iterator[str]:
    """The URL of a place whose listings this process makes up: shards, and parts of most."""

    async def pages(fs: Any, method: str, *, Prefix: str, **_: Any) -> AsyncIterator[Any]:
        is_output = Prefix.startswith("out/")
        count = round(num_shards * done) if is_output else num_shards
        for first in range(0, count if Prefix in ("in/", "out/tokens/") else 0, 1000):
            shards = map(_made_up, range(first, min(first + 1000, count)))
            keys = (
                f"out/tokens/{s.name}.parquet" if is_output else s.url.removeprefix(f"{NOBODY}/")
                for s in shards
            )
            yield {"Contents": [_object(key, number) for number, key in enumerate(keys, first)]}

    real = s3fs.S3FileSystem._list_pages
    s3fs.S3FileSystem._list_pages = pages
    yield NOBODY
    s3fs.S3FileSystem._list_pages = real


def _made_up(number: int) -> Shard:
    return Shard(f"{NOBODY}/in/train-{number:07d}.tar", 10**9, f"{number:032x}")


def _object(key: str, number: int) -> dict[str, Any]:
    """What botocore makes of an entry of a page."""
    return {
        "Key": key,
        "LastModified": datetime.fromtimestamp(number, UTC),
        "ETag": f'"{number:032x}"',
        "ChecksumAlgorithm": ["CRC64NVME"],
        "ChecksumType": "FULL_OBJECT",
        "Size": 10**9,
        "StorageClass": "STANDARD",
    }


def measure(root: str) -> None:
    calls = count_requests()
    started, cpu_started = time.perf_counter(), time.process_time()
    shards = list_shards([f"{root}/in/"], Storage())
    listed, cpu_listed = time.perf_counter(), time.process_time()
    todo = TokenDataset(f"{root}/out", Storage()).todo(shards)
    ended, cpu_ended = time.perf_counter(), time.process_time()
    print(f"{len(shards):,} shards, {len(todo):,} of them left to do")
    line = "{:20} {:6.2f} s, {:6.2f} s of a CPU"
    print(line.format("listing the shards", listed - started, cpu_listed - cpu_started))
    print(line.format("finding what is done", ended - listed, cpu_ended - cpu_listed))
    print(
        f"peak memory          {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB"
    )
    print(f"requests             {dict(calls)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--done", type=float, default=0.99)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--bucket")
    place.add_argument("--no-store", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    if arguments.no_store:
        with no_store(arguments.shards, arguments.done) as root:
            measure(root)
        return
    with store(arguments.bucket) as root:
        real = bool(arguments.bucket)
        fill(root, (f"in/train-{i:06d}.tar" for i in range(arguments.shards)), real)
        shards = list_shards([f"{root}/in/"], Storage())
        done = shards[: round(arguments.done * len(shards))]
        fill(root, (f"out/tokens/{shard.name}.parquet" for shard in done), real)
        measure(root)


if __name__ == "__main__":
    main()
