"""Keys of strangers as names of files."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.paths import safe_name, safe_names

PARTS = st.sampled_from(
    ["..", ".", "", "a", "a.npy", "b~2", "\0", "x" * 300, "\ud83d", "\u00e9" * 130]
)
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    "key", ["utt", "en/hello", "a.b/c-d@1500", ".hidden", "..x", "\u00e9 \u4e2d\\"]
)
def test_an_ordinary_key_is_its_own_name(key):
    assert safe_name(key) == key


@given(KEYS | st.text())
def test_a_name_stays_below_its_folder_and_fits_a_disk(key):
    name = safe_name(key)
    assert posixpath.normpath(f"/out/{name}.flac") == f"/out/{name}.flac"
    assert all(0 < len(part.encode()) <= 240 for part in name.split("/"))
    assert len(name.encode()) <= 720
    assert "\0" not in name


@given(st.lists(KEYS, max_size=12))
def test_names_are_distinct_and_none_is_the_folder_of_another(keys):
    files = [f"{name}.npy" for name in safe_names(keys, ".npy")]
    folders = {posixpath.dirname(file) for file in files}
    assert len(set(files)) == len(files) == len(keys)
    assert not folders & set(files)
