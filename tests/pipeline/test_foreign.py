"""URLs that data may name, and those that it may not."""

import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.foreign import Roots, check_foreign
from speechmill.pipeline.storage import Storage


@pytest.mark.parametrize(
    "url",
    ["/a/x.tar", "file:///a/x.tar", "s3://b/x.tar", "hf://o/r@main/x.tar", "gs://b/x", "az://c/x"],
)
def test_data_may_name_a_path_or_an_object_of_a_common_store(url):
    check_foreign(url, "list.txt, line 1", Storage())


def test_data_may_name_http_only_if_the_configuration_does():
    for protocol in ("http", "https"):
        url = f"{protocol}://host/x.tar"
        check_foreign(url, "list.txt, line 1", Storage({protocol: {}}))
        with pytest.raises(InputError, match=f"line 1: .* only if storage.{protocol} is set"):
            check_foreign(url, "list.txt, line 1", Storage({"s3": {}}))


@pytest.mark.parametrize(
    "url",
    [
        *("memory://x", "reference://x", "zip://x", "simplecache://x", "local:///x", "ftp://h/x"),
        *("data:x", "data://x", "S3://b/x", "s3a://b/x", "github://o:r@/x", "sftp://h/x", "://x"),
        *("a.tar", "file://a.tar", "/a\0.tar", "s3://a/x::http://h/y", "az://c@account/x"),
        *("https://user:password@host/x", "s3://*/x.tar", "az://evil.blob.core.windows.net/x"),
    ],
)
def test_data_chooses_no_other_protocol_no_host_and_no_account(url):
    with pytest.raises(InputError, match="line 1"):
        check_foreign(url, "list.txt, line 1", Storage({"https": {}}))


@pytest.mark.parametrize(
    ("root", "inside", "outside"),
    [
        ("/d/in", ["/d/in", "/d/in/x", "/d/in/a/../x", "file:///d/in/x"], ["/d/inner/x", "/d"]),
        ("/d/in/", ["/d/in/x"], ["/d/in/../x", "/d/in/a/../../x", "s3://d/in/x", "x"]),
        ("s3://b/a", ["s3://b/a/x"], ["s3://b/ab", "s3://c/a/x", "s3://b/a/../x", "/b/a/x"]),
        ("http://h/a", ["http://h/a/x"], ["https://h/a/x", "http://h/a/%2e%2e/x", "http://h/b"]),
        ("s3://b", ["s3://b/x"], ["s3://b/x::http://h/y", "s3://bb/x"]),
        ("/", ["/x"], ["s3://x"]),
    ],
)
def test_a_root_holds_what_lies_below_it(root, inside, outside):
    roots = Roots.of([root], Storage({"s3": {"anon": True}}))
    assert [roots.hold(url) for url in inside + outside] == [True] * len(inside) + [False] * len(
        outside
    )
    assert not Roots(()).hold(inside[0])
