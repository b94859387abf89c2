import errno
import os

import pytest

from pipeline.errors import (
    StorageDenied,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
)
from pipeline.storage import Storage, join


@pytest.fixture(params=["local", "memory", "moto"])
def root(request, tmp_path):
    """A writable folder and its storage, on every kind of store."""
    if request.param == "local":
        return str(tmp_path), Storage()
    if request.param == "memory":
        return f"memory://{tmp_path.name}", Storage()
    server = request.getfixturevalue("moto")
    bucket = request.getfixturevalue("moto_bucket")
    return f"{bucket}/folder", Storage({"s3": server.storage_options})


def test_what_was_put_is_listed_and_read_whole_or_in_parts(root):
    url, storage = root
    storage.put(join(url, "a/b.bin"), b"0123456789")
    storage.put(join(url, "a/c.bin"), b"")
    [b, c] = storage.list_files(url)
    assert (b.url, b.size, c.size) == (storage.absolute(join(url, "a/b.bin")), 10, 0)
    assert storage.read_bytes(b.url) == b"0123456789"
    assert storage.read_tail(b.url, 4) == b"6789"
    assert storage.read_tail(b.url, 400) == b"0123456789"
    with storage.open(b.url) as stream:
        stream.seek(3)
        assert (stream.read(2), stream.tell(), stream.read()) == (b"34", 5, b"56789")


def test_a_listing_and_a_lookup_agree_on_size_and_etag(root):
    url, storage = root
    storage.put(join(url, "x"), b"123")
    [listed] = storage.list_files(url)
    assert storage.info(listed.url) == listed


def test_a_new_version_of_an_object_has_another_etag_and_shows_at_once(root):
    url, storage = root
    storage.put(join(url, "x"), b"123")
    before = storage.info(join(url, "x"))
    storage.put(join(url, "x"), b"124")
    [after] = storage.list_files(url)
    assert after.etag != before.etag
    assert storage.read_bytes(join(url, "x")) == b"124"


def test_what_is_not_there_is_not_found(root):
    url, storage = root
    assert storage.list_files(join(url, "nowhere")) == []
    assert not storage.exists(join(url, "nothing"))
    for read in (storage.read_bytes, storage.info):
        with pytest.raises(StorageNotFound, match="nothing"):
            read(join(url, "nothing"))


def test_deleted_objects_are_gone(root):
    url, storage = root
    storage.put(join(url, "x"), b"1")
    storage.delete(join(url, "x"))
    assert not storage.exists(join(url, "x"))


def test_an_interrupted_local_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    storage = Storage()
    storage.put(f"{tmp_path}/x", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.put(f"{tmp_path}/x", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"old")]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EROFS, StorageDenied)],
)
def test_errors_of_the_disk_say_what_they_are(tmp_path, monkeypatch, number, expected):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected, match=str(tmp_path)):
        Storage().put(f"{tmp_path}/x", b"new")


def test_a_bucket_without_permission_is_denied(bucket, rgw):
    stranger = Storage({"s3": rgw.storage_options | {"secret": "wrong"}})
    for attempt in (stranger.list_files, stranger.read_bytes):
        with pytest.raises(StorageDenied):
            attempt(f"{bucket}/x")
    with pytest.raises(StorageDenied):
        stranger.put(f"{bucket}/x", b"1")


def test_a_server_that_does_not_answer_is_unavailable():
    options = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9"}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    with pytest.raises(StorageUnavailable):
        Storage({"s3": options}).list_files("s3://bucket/x")
