"""Errors of the disk and of the libraries of every store, translated to our storage errors.

They are known by their names and attributes, so that the library of an unused store is never
imported. What an HTTP answer says counts more than the class that a library made of it.
"""

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import islice
from typing import Any

from speechmill.pipeline.errors import (
    BucketNotFound,
    SpeechmillError,
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
_UNAVAILABLE = (
    *("TimeoutError", "Timeout", "ConnectionError", "IncompleteRead"),
    # botocore
    *("HTTPClientError", "EndpointConnectionError", "ResponseParserError", "IncompleteReadError"),
    *("ResponseStreamingError", "FlexibleChecksumError"),
    *("ProtocolError", "SSLError"),  # urllib3
    # aiohttp, requests, httpx, Google and Azure
    *("ClientPayloadError", "ClientConnectionError", "ChunkedEncodingError", "TransportError"),
    *("ChecksumError", "ServiceRequestError", "ServiceResponseError"),
)
_BY_NAME: dict[str, type[StorageError]] = {
    "FileNotFoundError": StorageNotFound,
    "PermissionError": StorageDenied,
    "NoCredentialsError": StorageDenied,
    "PartialCredentialsError": StorageDenied,
    "CredentialRetrievalError": StorageDenied,
    "DefaultCredentialsError": StorageDenied,
    "ClientAuthenticationError": StorageDenied,
    # Of kinds that are retried, but time does not heal these.
    "ClientConnectorCertificateError": StorageError,
    "SSLCertVerificationError": StorageError,
    "UnsupportedProtocol": StorageError,
    **dict.fromkeys(_UNAVAILABLE, StorageUnavailable),
}
# Codes of S3 and of what stands behind it, such as `KMS.ThrottlingException`, which is a 400.
_BY_CODE: list[tuple[re.Pattern[str], type[StorageError]]] = [
    (re.compile(pattern), kind)
    for pattern, kind in (
        # An answer to HEAD has no body, so its code is the status.
        (r"NoSuchBucket|InvalidBucketName|PermanentRedirect|301", BucketNotFound),
        (r"QuotaExceeded", StorageFull),
        (
            r"(.+\.)?(\w*Throttl\w*|TooManyRequests\w*|\w*LimitExceeded\w*|SlowDown\w*|"
            r"ProvisionedThroughputExceeded\w*|RequestTimeout\w*|PriorRequestNotComplete|"
            r"BadDigest|IncompleteBody|XAmzContentSHA256Mismatch|ConditionalRequestConflict|"
            r"OperationAborted|Internal\w*|ServiceUnavailable\w*|ServerBusy)",
            StorageUnavailable,
        ),
        (
            r"(.+\.)?(AccessDenied\w*|ExpiredToken\w*|InvalidToken\w*|InvalidAccessKeyId|"
            r"SignatureDoesNotMatch|RequestTimeTooSkewed|TokenRefreshRequired)",
            StorageDenied,
        ),
    )
]
_BY_STATUS: dict[int, type[StorageError]] = {
    HTTPStatus.UNAUTHORIZED: StorageDenied,
    HTTPStatus.FORBIDDEN: StorageDenied,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: StorageDenied,
    HTTPStatus.NOT_FOUND: StorageNotFound,
    HTTPStatus.GONE: StorageNotFound,
    HTTPStatus.REQUEST_TIMEOUT: StorageUnavailable,
    HTTPStatus.TOO_EARLY: StorageUnavailable,
    HTTPStatus.TOO_MANY_REQUESTS: StorageUnavailable,
    HTTPStatus.NOT_IMPLEMENTED: StorageError,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: StorageError,
    HTTPStatus.INSUFFICIENT_STORAGE: StorageFull,
}
_LIBRARIES = frozenset(
    (
        *("aiobotocore", "botocore", "s3fs", "aiohttp", "fsspec", "requests", "urllib3"),
        *("huggingface_hub", "httpcore", "httpx", "httpx2", "gcsfs", "google", "adlfs", "azure"),
    )
)
_CLOCK_SKEW = timedelta(minutes=5)  # S3 refuses 15, Azure 15, Google 10
_LONGEST_CHAIN = 10  # causes of causes


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise the errors of the block as the matching `StorageError`, with the URL."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        known = _known(error)
        if known is None:
            raise
        text = f"{url}: {_told(*known, url)}"
        # A backend puts signatures and headers into its messages; then its traceback has them too.
        raise known[0](public_text(text)) from (error if _is_public(error) else None)


def _told(kind: type[StorageError], error: BaseException, url: str) -> str:
    said = f"{type(error).__name__}: {_message(error)}"
    if kind is BucketNotFound:
        bucket = url.partition("://")[2].partition("/")[0]
        said = f"no bucket {bucket!r}, or not in this region ({said})"
        region = http_header(error, "x-amz-bucket-region")
        if region and _http_code(error) != "NoSuchBucket":
            said = (
                f"the bucket {bucket!r} is in the region {region}; set "
                f"storage.s3.client_kwargs.region_name={region}, and an endpoint_url of that region"
            )
    elif kind is StorageDenied and "Credentials" in type(error).__name__:
        said += "; set storage.<protocol>, or log in as the library of the store wants it"
    elif kind is StorageDenied:
        said += _clock_skew(error)
    return said


def _clock_skew(error: BaseException) -> str:
    """The end of a message if this clock is so far from the store's that signatures are refused."""
    try:
        ahead = datetime.now(UTC) - parsedate_to_datetime(http_header(error, "date"))
    except (TypeError, ValueError):  # no date, or one without a time zone
        return ""
    if abs(ahead) < _CLOCK_SKEW:
        return ""
    side = "ahead of" if ahead > timedelta() else "behind"
    minutes = abs(ahead) / timedelta(minutes=1)
    return f"; the clock of this machine is {minutes:,.0f} minutes {side} the store's: set it"


def _message(error: BaseException) -> str:
    """What the first of the errors says that says anything, in one line."""
    said = (" ".join(str(each).split()) for each in _chain(error))
    return next((text for text in said if text not in ("", "None")), "without a message")


def _is_public(error: BaseException) -> bool:
    text = "".join(traceback.format_exception(error))
    return public_text(text) == text


def _known(error: Exception) -> tuple[type[StorageError], BaseException] | None:
    """Our class for an error of a store and what shows it; None if it is not one."""
    for each in _chain(error):
        if kind := _kind_of_answer(each):
            return kind, each
    causes = _chain(error, with_context=False)
    named = [(kind, each) for each in causes if (kind := _kind_of_class(each))]
    # A refused connection hides behind a `FileNotFoundError` of the library.
    unavailable = [pair for pair in named if pair[0] is StorageUnavailable]
    return next(iter(unavailable + named), None)


def _chain(error: BaseException, with_context: bool = True) -> Iterator[BaseException]:
    """The error, and what led to it in the libraries of a store."""

    def causes() -> Iterator[BaseException]:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SpeechmillError):
            yield cause
            context = None if cause.__suppress_context__ or not with_context else cause.__context__
            cause = cause.__cause__ or context

    return islice(causes(), _LONGEST_CHAIN)


def _kind_of_answer(error: BaseException) -> type[StorageError] | None:
    code, status = _http_code(error), _status(error)
    for pattern, kind in _BY_CODE:
        if pattern.fullmatch(code):
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return StorageUnavailable if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None


def _kind_of_class(error: BaseException) -> type[StorageError] | None:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):  # botocore has no class of its own for it
        return StorageError
    for parent in type(error).__mro__:
        if parent.__name__ in _BY_NAME:
            return _BY_NAME[parent.__name__]
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, StorageError)
    return StorageError if type(error).__module__.partition(".")[0] in _LIBRARIES else None


def http_status(error: BaseException) -> int:
    """The HTTP status of a store's answer; 0 without an answer."""
    return next((status for each in _chain(error) if (status := _status(each))), 0)


def http_header(error: BaseException, name: str) -> str:
    """A header of S3's answer; empty without one."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        fields: dict[str, Any] = response if isinstance(response, dict) else {}
        headers = fields.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if name in headers:
            return str(headers[name])
    return ""


def _status(error: BaseException) -> int:
    """The status that an error itself has, where its library keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _as_status(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    names = ("status_code", "status", "code")  # Azure, aiohttp, gcsfs
    found = (_as_status(getattr(o, name, None)) for o in (response, error) for name in names)
    return next(filter(None, found), 0)


def _as_status(value: object) -> int:
    number = int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
    return number if 400 <= number < 600 else 0


def _http_code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    fields: dict[str, Any] = response if isinstance(response, dict) else {}
    return str(fields.get("Error", {}).get("Code", ""))
