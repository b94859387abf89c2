import errno
import os
import ssl
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import trustme
from s3fs import S3FileSystem

from speechmill.pipeline import metrics
from speechmill.pipeline.errors import (
    BucketNotFound,
    InputError,
    ObjectReplaced,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
)
from speechmill.pipeline.read_ahead import RANGE_BYTES, count_ranges
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.storage import LEFTOVER_AGE, Storage, join
from tests.altering_proxy import Habit, alter
from tests.fault_proxy import FAULTS, FaultProxy


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


def streamed(storage: Storage, folder: str) -> bytes:
    """What the stream of the only object in a folder gives, as it was listed."""
    [listed] = storage.list_files(folder)
    with storage.stream(listed.url, listed) as stream:
        return stream.read()


def test_written_objects_are_listed_and_read_whole_or_in_parts(root):
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


def test_a_folder_is_not_listed_as_an_object_if_its_first_object_appears_during_the_listing(
    moto, moto_bucket, monkeypatch
):
    storage = Storage({"s3": moto.storage_options})
    list_keys = S3FileSystem._lsdir

    async def list_just_before_a_write(fs, path, *args, **kwargs):
        keys = await list_keys(fs, path, *args, **kwargs)
        await fs._pipe_file(f"{path}/first", b"1")
        return keys

    with monkeypatch.context() as patch:
        patch.setattr(S3FileSystem, "_lsdir", list_just_before_a_write)
        assert storage.list_files(f"{moto_bucket}/new") == []
    [first] = storage.list_files(f"{moto_bucket}/new")
    assert first.url == f"{moto_bucket}/new/first"


def test_a_link_is_the_file_that_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tar").write_bytes(b"123")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "b.tar").symlink_to("../real/a.tar")
    (tmp_path / "linked" / "folder.tar").symlink_to("../real")
    [listed] = Storage().list_files(f"{tmp_path}/linked")
    assert Storage().glob(f"{tmp_path}/linked/*.tar") == ([listed], [])
    assert Storage().info(listed.url) == listed
    assert (listed.url, listed.size) == (f"{tmp_path}/linked/b.tar", 3)
    (tmp_path / "real" / "a.tar").unlink()
    with pytest.raises(StorageNotFound, match=r"b\.tar"):
        Storage().list_files(f"{tmp_path}/linked")


def test_a_new_version_of_an_object_has_another_etag_and_shows_at_once(root):
    url, storage = root
    storage.put(join(url, "x"), b"123")
    before = storage.info(join(url, "x"))
    storage.put(join(url, "x"), b"124")
    [after] = storage.list_files(url)
    assert after.etag != before.etag
    assert storage.read_bytes(join(url, "x")) == b"124"


def test_a_missing_object_is_not_found(root):
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
def test_errors_of_the_disk_are_translated(tmp_path, monkeypatch, number, expected):
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
    with pytest.raises(StorageUnavailable, match=r"tried \d times"):
        Storage({"s3": options}, patience=0.9).list_files("s3://bucket/x")


def test_a_missing_bucket_is_not_a_missing_object(moto):
    storage = Storage({"s3": moto.storage_options})
    for attempt in (lambda url: storage.put(url, b"1"), storage.read_bytes, storage.list_files):
        with pytest.raises(BucketNotFound, match="no-such-bucket"):
            attempt("s3://no-such-bucket/folder/x")


def test_a_new_object_is_kept_and_a_second_write_changes_nothing(root):
    url, storage = root
    assert storage.put_new(join(url, "a/x"), b"first")
    assert not storage.put_new(join(url, "a/x"), b"second")
    assert storage.read_bytes(join(url, "a/x")) == b"first"
    assert [info.size for info in storage.list_files(url)] == [5]


@pytest.mark.parametrize("kind", ["local", "rgw"])
def test_one_of_many_concurrent_new_writes_wins(kind, request, tmp_path):
    url, storage = str(tmp_path), Storage()
    if kind == "rgw":
        url = request.getfixturevalue("bucket")
        storage = Storage({"s3": request.getfixturevalue("rgw").storage_options})
    with ThreadPoolExecutor(8) as threads:
        won = threads.map(lambda n: storage.put_new(f"{url}/x", b"%d" % n), range(8))
    assert sorted(won) == [False] * 7 + [True]


@pytest.fixture
def faulty(moto, moto_bucket):
    """A storage that reaches a bucket through a proxy, which injects these faults."""

    def start(rate, faults=FAULTS, patience=60.0):
        proxy = FaultProxy(moto.endpoint_url, rate, seed=1, faults=faults)
        options = replace(moto, endpoint_url=proxy.endpoint_url).storage_options
        return proxy, Storage({"s3": options}, patience), moto_bucket

    return start


@pytest.mark.parametrize("fault", FAULTS)
def test_a_temporary_fault_of_storage_is_retried(faulty, fault):
    data = os.urandom(3 * RANGE_BYTES // 2)
    proxy, storage, bucket = faulty(0.3, [fault])
    with proxy:
        storage.put(f"{bucket}/x", data)
        assert storage.read_bytes(f"{bucket}/x") == data
        assert storage.read_tail(f"{bucket}/x", 1000) == data[-1000:]
        with storage.open(f"{bucket}/x") as stream:
            stream.seek(512)
            read = b"".join(iter(lambda: stream.read(2**20), b""))
        assert read == data[512:]
        [listed] = storage.list_files(bucket)
        for version in (None, listed):
            with storage.stream(f"{bucket}/x", version) as stream:
                assert stream.read() == data
        for number in range(3):
            storage.put_new(f"{bucket}/{number}", b"1")
            storage.delete(f"{bucket}/{number}")
    assert proxy.met[fault]


def test_only_one_layer_retries(faulty):
    proxy, storage, bucket = faulty(1.0, ["slow down"], patience=0.0)
    with proxy:
        for attempt in (storage.read_bytes, storage.list_files, storage.info):
            before = proxy.requests
            with pytest.raises(StorageUnavailable):
                attempt(f"{bucket}/x")
            assert proxy.requests == before + 1
        with pytest.raises(StorageUnavailable, match="tried 1 times"):
            storage.put(f"{bucket}/x", b"1")
        assert proxy.requests == before + 2


def test_requests_retries_and_bytes_are_counted(faulty, monkeypatch):
    monkeypatch.setattr("speechmill.pipeline.storage._RETRY", Backoff(first=0.01, longest=0.01))
    counted = Counter()

    def count(metric, value, labels):
        counted[metric.name, *labels.values()] += value

    proxy, storage, bucket = faulty(0.5, ["slow down"])
    metrics.send_to(count)
    try:
        with proxy:
            storage.put(f"{bucket}/x", b"abc")
            assert storage.read_tail(f"{bucket}/x", 2) == b"bc"
            storage.delete(f"{bucket}/x")
    finally:
        metrics.send_to(None)
    assert counted["storage_bytes", "out"] == 3
    assert counted["storage_bytes", "in"] == 2
    assert counted["storage_retries",] == proxy.met["slow down"] > 0
    kinds = ("write", "read", "delete")
    assert sum(counted["storage_requests", kind] for kind in kinds) == 3 + proxy.met["slow down"]


def test_an_object_that_is_replaced_while_it_is_read_is_not_read_as_a_mixture(root):
    url, storage = root
    storage.put(join(url, "x"), b"a" * (2 * RANGE_BYTES))
    with storage.open(join(url, "x")) as stream:
        first = stream.read(1000)
        storage.put(join(url, "x"), b"b" * (2 * RANGE_BYTES + 1))
        try:
            rest = stream.read()
        except StorageError:
            return
    assert set(first + rest) == {ord("a")}


@pytest.mark.parametrize("listed", [False, True], ids=["opened", "of a listing"])
def test_a_stream_of_an_object_that_is_replaced_is_not_a_mixture(moto, moto_bucket, listed):
    url, storage = f"{moto_bucket}/x", Storage({"s3": moto.storage_options})
    storage.put(url, b"a" * (4 * RANGE_BYTES))
    with storage.stream(url, storage.info(url) if listed else None) as stream:
        assert set(stream.read(1000)) == {ord("a")}
        storage.put(url, b"b" * (4 * RANGE_BYTES))
        stream.seek(3 * RANGE_BYTES)  # far from what is fetched at first
        with pytest.raises(ObjectReplaced, match="was replaced while it was read"):
            stream.read()


def test_a_stream_of_a_version_that_was_replaced_before_gives_no_byte(root):
    url, storage = root
    storage.put(join(url, "x"), b"first")
    listed = storage.info(join(url, "x"))
    storage.put(join(url, "x"), b"later, and longer")
    with pytest.raises(ObjectReplaced), storage.stream(join(url, "x"), listed) as stream:
        stream.read(1)


def test_a_stream_of_a_listed_version_asks_for_no_byte_twice_and_for_nothing_else(faulty):
    data = os.urandom(3 * RANGE_BYTES)
    proxy, storage, bucket = faulty(0.0)
    with proxy:
        storage.put(f"{bucket}/x", data)
        [listed] = storage.list_files(bucket)
        before = proxy.requests
        with storage.stream(f"{bucket}/x", listed) as stream:
            assert stream.read() == data
        assert proxy.requests == before + count_ranges(len(data))


def test_a_listed_object_that_is_gone_is_not_found(root):
    url, storage = root
    storage.put(join(url, "x"), b"first")
    listed = storage.info(join(url, "x"))
    storage.delete(join(url, "x"))
    with pytest.raises(StorageNotFound), storage.stream(join(url, "x"), listed) as stream:
        stream.read(1)


@pytest.mark.parametrize("habit", [Habit(weak_etags=True), Habit(whole=True)], ids=str)
def test_a_store_that_gives_weak_etags_or_knows_no_ranges_is_read_too(moto, moto_bucket, habit):
    data = os.urandom(1000)  # a store without ranges can only give a whole object
    with alter(moto.endpoint_url, habit) as endpoint_url:
        storage = Storage({"s3": moto.storage_options | {"endpoint_url": endpoint_url}})
        storage.put(f"{moto_bucket}/x", data)
        assert streamed(storage, moto_bucket) == data


@pytest.mark.parametrize("by", ["variable", "option"])
def test_an_own_certificate_authority_is_trusted_for_ranges_too(
    moto, moto_bucket, by, tmp_path, monkeypatch
):
    own = trustme.CA()
    bundle = str(tmp_path / "ca.pem")
    own.cert_pem.write_to_path(bundle)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.issue_cert("127.0.0.1").configure_cert(tls)
    Storage({"s3": moto.storage_options}).put(f"{moto_bucket}/x", b"abc")
    with alter(moto.endpoint_url, Habit(tls=tls)) as endpoint_url:
        options = moto.storage_options | {"endpoint_url": endpoint_url}
        with pytest.raises(StorageError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            Storage({"s3": options}, patience=60.0).list_files(moto_bucket)
        assert type(caught.value) is StorageError  # which is not tried again for a minute
        if by == "variable":
            monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
            S3FileSystem.clear_instance_cache()
        else:
            options["client_kwargs"] = options.get("client_kwargs", {}) | {"verify": bundle}
        storage = Storage({"s3": options}, patience=0.0)
        assert streamed(storage, moto_bucket) == b"abc"


MORE_OPTIONS = {
    "who pays": {"requester_pays": True},
    "no payer": {"s3_additional_kwargs": {"RequestPayer": None}},
    "a setting of aiobotocore": {"config_kwargs": {"connector_args": {"keepalive_timeout": 20}}},
    "a section": {"config_kwargs": {"s3": {"addressing_style": "path"}}},
}


@pytest.mark.parametrize("more", MORE_OPTIONS.values(), ids=MORE_OPTIONS)
def test_ranges_are_read_with_every_option_that_s3fs_takes(moto, moto_bucket, more):
    options = moto.storage_options | more
    storage = Storage({"s3": options})
    storage.put(f"{moto_bucket}/x", b"paid")
    assert streamed(storage, moto_bucket) == b"paid"


def test_old_temporary_files_of_killed_writes_are_removed(tmp_path):
    storage = Storage()
    storage.put(f"{tmp_path}/kept", b"1")
    for name, age in ((".kept.1.tmp", LEFTOVER_AGE + 60), (".kept.2.tmp", 0.0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert storage.clear_leftovers(str(tmp_path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".kept.2.tmp", "kept"]


@pytest.mark.parametrize("put", [Storage.put, Storage.put_new])
def test_a_write_survives_a_run_whose_clock_is_ahead_and_takes_its_file_for_an_old_one(
    tmp_path, monkeypatch, put
):
    cleared = []

    def sync_and_clear(handle):
        if not cleared:  # the other run starts between the write and the rename
            cleared.append(Storage().clear_leftovers(str(tmp_path), before=time.time() + 60))

    monkeypatch.setattr("os.fsync", sync_and_clear)
    put(Storage(), f"{tmp_path}/part", b"whole")
    assert cleared == [1]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"part": b"whole"}


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_a_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        Storage().put(f"{tmp_path}/x", b"x")
        Storage().put_new(f"{tmp_path}/y", b"y")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in "xy"} == {mode}


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path):
    for name in ("x" * 255, "\u00e9" * 127):
        Storage().put(f"{tmp_path}/{name}", b"x")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("root", ["local", "moto"], indirect=True)
def test_a_name_with_two_colons_is_no_chain_of_protocols(root):
    url, storage = root
    name = join(url, "memory::http://a/b.bin" if "://" in url else "memory::b.bin")
    storage.put(name, b"x")
    [found] = storage.list_files(url)
    assert storage.read_bytes(found.url) == storage.read_bytes(name) == b"x"


@pytest.mark.parametrize("url", ["gs://bucket/x", "nothing://x"])
def test_a_store_without_its_library_is_refused_in_one_line(url):
    with pytest.raises(InputError, match=url) as error:
        Storage().exists(url)
    assert len(str(error.value).splitlines()) == 1
