"""Shards on plain web servers, which leave out what a store always says."""

import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.web_server import FILE, Behaviour, serve


def storage():
    return Storage(patience=5)


@pytest.mark.parametrize(
    "does",
    [
        Behaviour(head=405),
        Behaviour(head=501),
        Behaviour(head=403),
        Behaviour(head=405, tells_length=False),
        Behaviour(tells_length=False),
        Behaviour(ranges=False),
    ],
    ids=str,
)
def test_a_file_whose_size_can_be_found_is_read(does):
    with serve(does) as url:
        [shard] = list_shards([f"{url}{FILE}"], storage())
        assert shard.size == len(does.data)
        assert storage().read_bytes(shard.url) == does.data
        assert storage().read_tail(shard.url, 3) == does.data[-3:]


def test_a_file_whose_size_no_answer_tells_is_refused_with_that_reason():
    said = r"x\.tar: the web server does not say its size"
    does = Behaviour(tells_length=False, ranges=False)
    with serve(does) as url, pytest.raises(InputError, match=said):
        list_shards([f"{url}{FILE}"], storage())


def test_a_server_without_ranges_is_named_if_the_file_needs_them():
    does = Behaviour(data=bytes(20 * 2**20), ranges=False)
    with serve(does) as url, pytest.raises(InputError, match="sends no ranges"):
        storage().read_bytes(f"{url}{FILE}")


@pytest.mark.parametrize("source", ["/", "/a*.tar"])
def test_a_folder_without_a_listing_is_refused_with_that_reason(source):
    said = r"shows no listing of it.*name each file by its URL"
    with serve(Behaviour()) as url, pytest.raises(InputError, match=said):
        list_shards([f"{url}{source}"], storage())


@pytest.mark.parametrize(
    ("source", "names"),
    [("/", ["a/x", "b/x"]), ("/*/*.tar", ["a/x", "b/x"]), ("/[b]/*.tar", ["b/x"])],
)
def test_the_tars_that_a_page_links_to_are_its_shards(source, names):
    linked = ["../", "?C=N", "a/x.tar", "b.tar?x", "b/x.tar", "https://elsewhere/x.tar"]
    does = Behaviour(page="".join(f'<a href="{each}">x</a>' for each in linked))
    with serve(does) as url:
        found = list_shards([f"{url}{source}"], storage())
    assert [shard.url for shard in found] == [f"{url}/{name}.tar" for name in names]
    assert {shard.size for shard in found} == {len(does.data)}
