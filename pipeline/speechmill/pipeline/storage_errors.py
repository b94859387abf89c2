"""Errors of the disk, botocore and aiohttp, translated to our storage errors."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from speechmill.pipeline.errors import (
    BucketNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
)
from speechmill.pipeline.redaction import public_text

_BY_ERRNO: dict[int, type[StorageError]] = {
    errno.ENOENT: StorageNotFound,
    errno.EACCES: StorageDenied,
    errno.EPERM: StorageDenied,
    errno.EROFS: StorageDenied,
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
    errno.EBUSY: StorageUnavailable,
    errno.ESTALE: StorageUnavailable,
    errno.ETIMEDOUT: StorageUnavailable,
    errno.EREMOTEIO: StorageUnavailable,
}
# By name, so that the libraries of unused backends are never imported.
_BY_NAME: dict[str, type[StorageError]] = {
    "FileNotFoundError": StorageNotFound,
    "PermissionError": StorageDenied,
    "NoCredentialsError": StorageDenied,
    "PartialCredentialsError": StorageDenied,
    "TimeoutError": StorageUnavailable,
    "ConnectionError": StorageUnavailable,
    "HTTPClientError": StorageUnavailable,
    "EndpointConnectionError": StorageUnavailable,
    "ClientPayloadError": StorageUnavailable,
    "ClientConnectionError": StorageUnavailable,
    "ResponseParserError": StorageUnavailable,
    "IncompleteRead": StorageUnavailable,
    "IncompleteReadError": StorageUnavailable,
    "ResponseStreamingError": StorageUnavailable,
    "FlexibleChecksumError": StorageUnavailable,
}
_BY_CODE: dict[str, type[StorageError]] = {
    "NoSuchBucket": BucketNotFound,
    "InvalidBucketName": BucketNotFound,
    "PermanentRedirect": BucketNotFound,
    "QuotaExceeded": StorageFull,
    "SlowDown": StorageUnavailable,
    "RequestTimeout": StorageUnavailable,
    "BadDigest": StorageUnavailable,
    "IncompleteBody": StorageUnavailable,
    "XAmzContentSHA256Mismatch": StorageUnavailable,
    "ConditionalRequestConflict": StorageUnavailable,
}


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise the errors of the block as the matching `StorageError`, with the URL."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        kind = _kind(error)
        if kind is None:
            raise
        text = f"{url}: {type(error).__name__}: {error}"
        # A backend puts signatures and headers into its messages; then its traceback has them too.
        raise kind(public_text(text)) from (error if _is_public(error) else None)


def _is_public(error: BaseException) -> bool:
    text = "".join(traceback.format_exception(error))
    return public_text(text) == text


def _kind(error: Exception) -> type[StorageError] | None:
    """Our class for an error of a backend; None if it is not a storage error."""
    code, status = _http_code(error), http_status(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StorageUnavailable
    for parent in type(error).__mro__:
        if parent.__name__ in _BY_NAME:
            return _BY_NAME[parent.__name__]
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, StorageError)
    return StorageError if type(error).__module__.startswith(("botocore", "aiohttp")) else None


def http_status(error: BaseException) -> int:
    """The HTTP status of an object store's answer; 0 without an answer."""
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _http_code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _response(error: BaseException) -> dict[str, Any]:
    found = (getattr(cause, "response", None) for cause in (error, error.__cause__))
    return next((response for response in found if isinstance(response, dict)), {})
