"""Ranges of S3 objects over blocking sockets, which costs a third of the CPU time of s3fs.

s3fs reads with an event loop, which wakes for each piece of a body that arrives. Here a client of
botocore reads, with the settings of s3fs: keys, endpoint, proxies and certificates.
"""

import os
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

from speechmill.pipeline.errors import StorageError

# Idle connections would be dropped in silence by some firewalls.
_CONNECTIONS = {"max_pool_connections": 64, "tcp_keepalive": True}
_OF_AIOBOTOCORE = {"connector_args", "http_session_cls"}  # settings that botocore does not know
_connecting = threading.Lock()


def connect(fs: Any) -> None:
    """Make the client of this process, before any thread fetches: each would make its own."""
    with _connecting:
        _get_object(os.getpid(), fs)


def fetch(fs: Any, path: str, etag: str, start: int, end: int) -> bytes:
    """The bytes of an object from `start` to before `end`, if it has this ETag; thread-safe.

    Raises the errors of botocore, such as `ClientError`.
    """
    bucket, key, version = fs.split_path(path)
    wanted = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
    wanted |= {"IfMatch": f'"{etag}"'} | ({"VersionId": version} if version else {})
    answer = _get_object(os.getpid(), fs)(**wanted)
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    is_range = status == HTTPStatus.PARTIAL_CONTENT
    if not is_range and (start, answer["ContentLength"]) != (0, end):
        raise StorageError(f"the store answered {status} to a request for a range")
    return bytes(answer["Body"].read())


@lru_cache
def _get_object(process: int, fs: Any) -> Callable[..., Any]:
    """GetObject of a client of botocore, with the settings and arguments of s3fs."""
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    timeouts = {"connect_timeout": fs.connect_timeout, "read_timeout": fs.read_timeout}
    given = fs.config_kwargs.items()
    known = {name: value for name, value in given if name not in _OF_AIOBOTOCORE}
    settings = _CONNECTIONS | timeouts | known
    own = {
        "endpoint_url": fs.endpoint_url,
        "use_ssl": fs.use_ssl,
        "aws_access_key_id": fs.key,
        "aws_secret_access_key": fs.secret,
        "aws_session_token": fs.token,
    }
    if fs.anon:
        settings |= {"signature_version": UNSIGNED}
    arguments = own | fs.client_kwargs
    client = Session(**fs.kwargs).create_client("s3", config=Config(**settings), **arguments)
    allowed = client.meta.service_model.operation_model("GetObject").input_shape.members
    more = fs.s3_additional_kwargs | fs.req_kw  # such as a key of the customer, or who pays
    more = {name: value for name, value in more.items() if name in allowed and value is not None}
    return partial(client.get_object, **more)
