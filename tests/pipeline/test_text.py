import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.text import (
    clean_json,
    decode_text,
    escape_bytes,
    message_of,
    shown,
    unescape_bytes,
)


@given(st.recursive(st.text(st.characters()), lambda inner: st.lists(inner, max_size=3)))
def test_cleaned_json_holds_no_lone_surrogate_and_is_otherwise_unchanged(value):
    text = json.dumps(value)
    cleaned, changed = clean_json(text)
    json.dumps(json.loads(cleaned), ensure_ascii=False).encode()
    assert changed == (cleaned != text)
    if not changed:
        json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
        (r'"\\ud83d"', r'"\\ud83d"'),
        (r'"\\\ud83d"', r'"\\\ufffd"'),
        (r'"\ude00\ud83d\uD83D\uDE00"', r'"\ufffd\ufffd\uD83D\uDE00"'),
    ],
)
def test_only_an_escape_of_half_a_character_is_replaced(text, cleaned):
    assert clean_json(text)[0] == cleaned


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfbom", ("bom", False)),
        ("wide".encode("utf-16"), ("wide", False)),
        (b"\xfe\xff\0w\xd8", ("w\ufffd", True)),
        (b"a\xf1o", ("a\ufffdo", True)),
    ],
)
def test_a_text_is_read_by_its_mark_and_what_is_not_a_character_is_replaced(data, expected):
    assert decode_text(data) == expected


@given(st.text(st.characters()))
def test_what_is_shown_is_one_line_without_control_characters(text):
    line = shown(text)
    line.encode()
    assert not any(character in line for character in "\n\r\x1b\x9b\u2028\u202e")


@given(st.binary())
def test_a_path_of_any_bytes_is_found_again_by_its_escaped_name(path):
    name = path.replace(b"\\", b"").decode(errors="surrogateescape")
    escape_bytes(name).encode()
    assert unescape_bytes(escape_bytes(name)) == name


@pytest.mark.parametrize("error", [MemoryError(), ValueError(), ValueError("x\udcf1")])
def test_an_error_always_says_something_that_can_be_stored(error):
    assert message_of(error).encode()
