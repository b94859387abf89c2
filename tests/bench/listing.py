"""How long a resumed run needs to find the shards that are left, on an S3 store.

    python -m tests.bench.listing [--shards 10000] [--done 0.99]
    eval "$(infra/s3/rgw.sh start)"
    python -m tests.bench.listing --bucket s3://listing --shards 100000

Without a bucket the store is moto, in this process. It searches all its keys for each page, so look
at the number of requests, not at the seconds. With a bucket, the store is that of AWS_ENDPOINT_URL,
and the seconds are meaningful; filling the bucket takes minutes.
"""

import argparse
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import s3fs
from aiobotocore.client import AioBaseClient
from moto.server import ThreadedMotoServer

from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.s3_server import fill_moto

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret"}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--done", type=float, default=0.99)
    parser.add_argument("--bucket")
    arguments = parser.parse_args()
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    with store(arguments.bucket) as root:
        real, storage = bool(arguments.bucket), Storage()
        fill(root, (f"in/train-{i:06d}.tar" for i in range(arguments.shards)), real)
        shards = list_shards([f"{root}/in/"], storage)
        done = shards[: round(arguments.done * len(shards))]
        fill(root, (f"out/tokens/{shard.name}.parquet" for shard in done), real)
        calls = count_requests()
        started = time.perf_counter()
        shards = list_shards([f"{root}/in/"], storage)
        listed = time.perf_counter()
        todo = TokenDataset(f"{root}/out", storage).todo(shards)
        ended = time.perf_counter()
    print(f"{len(shards):,} shards, {len(todo):,} of them left to do")
    print(f"listing the shards   {listed - started:6.2f} s")
    print(f"finding what is done {ended - listed:6.2f} s")
    print(f"requests             {dict(calls)}")


if __name__ == "__main__":
    main()
