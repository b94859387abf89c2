"""The errors of every store's library, by what the store answered."""

import pytest
from aiohttp import ClientResponseError, RequestInfo
from botocore.exceptions import ClientError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from speechmill.pipeline.errors import (
    BucketNotFound,
    InputError,
    StorageDenied,
    StorageError,
    StorageNotFound,
    StorageUnavailable,
)
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.storage_errors import translated
from tests.web_server import FILE, Behaviour, serve

STATUSES = [
    *[(status, StorageUnavailable) for status in (429, 500, 502, 503, 504)],
    *[(status, StorageDenied) for status in (401, 403)],
    (404, StorageNotFound),
    (501, StorageError),
]


def kind(error):
    with pytest.raises(StorageError) as found, translated("s3://b/x"):
        raise error
    return type(found.value)


def of_hub(status):
    """The error that huggingface_hub raises for a real answer."""
    with serve(Behaviour(statuses=[status])) as url, pytest.raises(HfHubHTTPError) as found:
        HfApi(endpoint=url).model_info("a/b", token=False)
    return found.value


def of_gcsfs(status):
    error = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})("no")
    error.code = status
    return error


def of_azure(status):
    error = type("HttpResponseError", (Exception,), {"__module__": "azure.core.exceptions"})("no")
    error.status_code = status
    return error


def as_s3fs_raises(error, set_cause):
    try:
        try:
            raise error
        except ClientError as caught:
            raise translate_boto_error(caught, set_cause=set_cause)  # noqa: B904
    except OSError as found:
        return found


@pytest.mark.parametrize("library", [of_hub, of_gcsfs, of_azure])
@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_a_status_means_the_same_in_every_library(library, status, expected):
    assert kind(library(status)) is expected


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_a_status_counts_more_than_the_class_that_fsspec_makes_of_it(status, expected):
    error = FileNotFoundError("http://host/x")
    error.__cause__ = ClientResponseError(
        RequestInfo(URL("http://host/x"), "GET", CIMultiDictProxy(CIMultiDict())), (), status=status
    )
    assert kind(error) is expected


@pytest.mark.parametrize(
    "code",
    [
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
        *("TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"),
        *("BandwidthLimitExceeded", "KMS.ThrottlingException", "InternalError"),
    ],
)
@pytest.mark.parametrize("set_cause", [True, False])
def test_a_store_that_throttles_is_unavailable_whatever_the_status(code, set_cause):
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error = ClientError(response, "GetObject")
    assert kind(error) is StorageUnavailable
    assert kind(as_s3fs_raises(error, set_cause)) is StorageUnavailable


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "KMS.AccessDeniedException"])
def test_a_store_that_refuses_the_login_is_denied(code):
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    assert kind(ClientError(response, "GetObject")) is StorageDenied


@pytest.mark.parametrize("message", [None, "", "The specified bucket does not exist"])
def test_a_missing_bucket_is_named_also_if_the_store_says_nothing(message):
    response = {"Error": {"Code": "NoSuchBucket", "Message": message}}
    error = as_s3fs_raises(ClientError(response, "ListObjectsV2"), set_cause=True)
    with pytest.raises(BucketNotFound, match="no bucket 'music'"), translated("s3://music/x.tar"):
        raise error


def test_an_error_without_a_message_says_what_led_to_it():
    error = OSError()
    error.__cause__ = ValueError("the certificate\nis too old")
    said = "OSError: the certificate is too old"
    with pytest.raises(StorageError, match=said), translated("s3://b/x"):
        raise error


def test_an_error_of_the_caller_is_not_one_of_the_store():
    with pytest.raises(KeyError), translated("s3://b/x"):
        raise KeyError("a bug")


def test_a_web_server_that_is_overloaded_is_asked_again():
    does = Behaviour(statuses=[503, 429, 503, 500])
    with serve(does) as url:
        assert Storage(patience=20).read_bytes(f"{url}{FILE}") == does.data
    assert not does.statuses


def test_a_hub_that_is_overloaded_is_asked_again_while_patience_lasts():
    does = Behaviour(statuses=[429] * 50)
    with serve(does) as url:
        storage = Storage({"hf": {"endpoint": url, "token": False}}, patience=3)
        with pytest.raises(StorageUnavailable, match=r"429.*tried \d times"):
            storage.info("hf://datasets/a/b/x.tar")
    assert does.requests.total() > 1


def test_a_refused_connection_is_not_a_missing_file():
    with pytest.raises(StorageUnavailable, match="tried"):
        Storage(patience=0.1).info("http://127.0.0.1:1/x.tar")


@pytest.mark.parametrize("options", [{"bogus": 1}, {"client_kwargs": {"bogus": 1}}])
def test_an_option_that_the_library_of_a_store_lacks_is_named(options):
    with pytest.raises(InputError, match=r"s3://b/x: storage.s3 is wrong: .*'bogus'"):
        Storage({"s3": {"key": "k", "secret": "s"} | options}).read_bytes("s3://b/x")
