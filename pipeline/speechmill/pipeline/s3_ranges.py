"""Ranges of S3 objects over blocking sockets, which costs a third of the CPU time of s3fs.

s3fs reads with an event loop, which wakes for each piece of a body that arrives. Here s3fs signs a
URL, and the HTTP session of botocore fetches it. Errors are those of botocore. What a signed URL
cannot reach, such as a bucket in a region that nobody named, is left to s3fs, which finds it.
"""

import os
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from speechmill.pipeline.errors import StorageError

if TYPE_CHECKING:
    from botocore.httpsession import URLLib3Session

_MOST_CONNECTIONS = 64  # that are kept for each host
# Long, so that a signature is still valid if the clock here is some minutes slow.
_SIGNED_SECONDS = 3600
_refused_by: set[Any] = set()  # filesystems whose signed URLs do not work, in this process


class SignedUrlRefused(Exception):
    """The store redirected or refused a signed URL; s3fs may still get through."""


def can_fetch(fs: Any) -> bool:
    """Whether a filesystem is S3, and signed URLs say all that a request must say."""
    is_plain = "s3" in fs.protocol and not (fs.req_kw or fs.s3_additional_kwargs)
    return is_plain and fs not in _refused_by


def fetch(fs: Any, path: str, etag: str, start: int, end: int) -> bytes:
    """The bytes of an object from `start` to before `end`, if it has this ETag; thread-safe.

    Raises `SignedUrlRefused`, and the errors of botocore and urllib3, such as `ClientError`.
    """
    from botocore.awsrequest import AWSRequest

    url = fs.sign(path, expiration=_SIGNED_SECONDS)
    headers = {"Range": f"bytes={start}-{end - 1}", "If-Match": f'"{etag}"'}
    request = AWSRequest("GET", url, headers, stream_output=True).prepare()
    answer = _session(os.getpid(), fs, urljoin(url, "/")).send(request)
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status_code <= HTTPStatus.FORBIDDEN:
        _refused_by.add(fs)
        raise SignedUrlRefused
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        raise _error(answer)
    return bytes(answer.raw.read())  # not its `content`, which is joined from small pieces


@lru_cache
def _session(process: int, fs: Any, server: str) -> "URLLib3Session":
    """The connections of a process to a server, with the settings of s3fs."""
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    config = fs.s3.meta.config
    verify = fs.client_kwargs.get("verify")
    if verify is None:
        verify = fs.session.get_config_variable("ca_bundle") or True
    return URLLib3Session(
        verify=verify,
        proxies=config.proxies or get_environ_proxies(server),
        timeout=(config.connect_timeout, config.read_timeout),
        max_pool_connections=_MOST_CONNECTIONS,
    )


def _error(answer: Any) -> Exception:
    """The error for an answer that is not a range."""
    from botocore.exceptions import ClientError
    from botocore.parsers import create_parser

    if answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
        return StorageError(f"the store answered {answer.status_code} to a request for a range")
    told = {"status_code": answer.status_code, "headers": answer.headers, "body": answer.content}
    error: Exception = ClientError(create_parser("rest-xml").parse(told, None), "GetObject")
    return error
