"""Which members are one sample: no audio and no text is lost without a word."""

import pytest

from speechmill.pipeline.shards.keys import Member, group_members, split_name

CASES = {
    "one stem": ("a.flac a.json", "a:flac,json"),
    "a dotted suffix": ("utt.audio.v2.flac utt.json", "utt:audio.v2.flac,json"),
    "a dotted suffix alone": ("utt.audio.v2.flac", "utt:audio.v2.flac"),
    "a suffix with an underscore": ("_b.flac a._stuff.flac", "_b:flac a:_stuff.flac"),
    "several channels": ("a.left.flac a.right.flac a.json", "a:left.flac,right.flac,json"),
    "decimal keys": (
        "v_0.00.flac v_0.00.json v_0.00.txt v_0.10.flac v_0.10.json",
        "v_0.00:flac,json,txt v_0.10:flac,json",
    ),
    "a prefix with a dot": (
        "sp0.9-a.flac sp0.9-a.txt sp0.9-b.flac",
        "sp0.9-a:flac,txt sp0.9-b:flac",
    ),
    "whole and decimal keys": (
        "v_0.flac v_0.json v_0.9.flac v_0.9.json v_1.flac",
        "v_0:flac,json v_0.9:flac,json v_1:flac",
    ),
    "whole keys after decimal ones": (
        "v_0.9.flac v_0.9.json v_0.flac v_0.json",
        "v_0.9:flac,json v_0:flac,json",
    ),
    "pairs": (
        "a.flac a.json a.enhanced.flac a.enhanced.json",
        "a:flac,json,enhanced.flac,enhanced.json",
    ),
    "pairs of decimal keys": (
        "v_0.1.flac v_0.1.json v_0.1.enhanced.flac v_0.1.enhanced.json",
        "v_0.1:flac,json,enhanced.flac,enhanced.json",
    ),
    "no way to tell": ("utt.1.flac utt.2.flac", "utt:1.flac,2.flac"),
    "twice": ("a.flac a.json a.flac", "a:flac,json a:flac"),
    "folders": ("s/a.flac s/a.txt ./b.flac d.e/c.flac", "s/a:flac,txt ./b:flac d.e/c:flac"),
}


def groups(names, audio_member=None):
    members = (Member(name, 1) for name in names)
    return list(group_members(members, 10**9, audio_member))


def described(names: str, audio_member=None) -> str:
    found = groups(names.split(), audio_member)
    return " ".join(f"{group.key}:{','.join(group.members)}" for group in found)


@pytest.mark.parametrize(("names", "expected"), CASES.values(), ids=CASES)
def test_members_of_one_stem_are_one_sample(names, expected):
    assert described(names) == expected


def test_the_member_that_the_settings_name_keeps_the_short_key():
    names = "a.left.flac a.left.json a.right.flac a.right.json"
    assert described(names, "left.flac") == "a:left.flac,left.json,right.flac,right.json"
    assert described(names) == "a.left:flac,json a.right:flac,json"


@pytest.mark.parametrize("suffixes", [("flac", "txt"), ("flac",)])
def test_a_run_of_any_length_is_never_held_as_a_whole(suffixes):
    """Samples of long keys come one by one; without a way to tell, each member is a reject."""
    read = 0

    def members():
        nonlocal read
        for number in range(1000):
            for suffix in suffixes:
                read += 1
                yield Member(f"sp0.{number}.{suffix}", 1)

    found = group_members(members(), 10**9, None)
    first = next(found)
    assert read < 200
    rest = list(found)
    assert len(rest) == 999
    assert {bool(group.fault) for group in (first, *rest)} == {len(suffixes) == 1}


def test_a_sample_is_limited_in_bytes_and_members_and_the_next_one_is_read():
    members = (Member(f"a.{n}", 10, b"0123456789") for n in range(20))
    [large, after] = group_members([*members, Member("b.flac", 1)], 100, None)
    assert (type(large.fault).__name__, after.key) == ("OversizedAudio", "b")
    assert not any(member.data for member in large.members.values())
    [many] = groups(f"a.{number}" for number in range(10_001))
    assert "10000 members" in str(many.fault)


@pytest.mark.parametrize("name", ["README", ".hidden", "dir/.flac", "a/b", ""])
def test_a_file_name_that_begins_with_a_dot_or_has_none_has_no_key(name):
    assert split_name(name) == (None, "")
