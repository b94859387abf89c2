import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.audio.expression import Expression
from speechmill.pipeline.audio.filters import Filters, FilterSettings
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.errors import InputError, OtherMetadata
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from tests.corpus import encode, tar_bytes, tone
from tests.one_shard import tokenize_one

FIELDS = {"lang": "en", "snr": 12.5, "tags": ["a", "b"], "speaker": {"age": 30, "name": None}}


@pytest.fixture
def kept(tmp_path, storage, null_codec):
    """Keys that pass the filters, and (key, error) of the others."""

    def run(members, by="none", **filters):
        storage.put(f"{tmp_path}/a.tar", tar_bytes(members))
        [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
        settings = DecodeSettings(segment=SegmentSettings(by), filters=FilterSettings(**filters))
        settings.segment.seconds = 1.0
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        report = tokenize_one(shard, str(out), storage, null_codec, settings)
        rows = pq.read_table(out / "tokens")["key"].to_pylist()
        if not report.rejects:
            return rows, []
        rejects = pq.read_table(out / "rejects").to_pylist()
        assert {reject["stage"] for reject in rejects} == {"filter"}
        return rows, [(reject["key"], reject["error"]) for reject in rejects]

    return run


def clips(**audio):
    return [(f"{key}.wav", encode(audio_T, format="WAV")) for key, audio_T in audio.items()]


def test_short_and_long_utterances_are_rejected(kept):
    members = clips(short=tone(0.4), right=tone(1.0), long=tone(2.5))
    rejects = [("short", "TooShort"), ("long", "TooLong")]
    assert kept(members, min_seconds=0.5, max_seconds=2.0) == (["right"], rejects)


def test_silence_and_clipping_are_rejected_by_their_share(kept):
    half = np.concatenate([tone(1.0), np.zeros(16_000, np.float32)])
    members = clips(loud=tone(1.0), half=half, clipped=np.clip(8 * tone(1.0), -1, 1))
    rejects = [("half", "SilentAudio"), ("clipped", "ClippedAudio")]
    assert kept(members, max_silence=0.4, max_clipping=0.01) == (["loud"], rejects)
    assert kept(members, max_silence=0.6)[1] == []


def test_channels_that_cancel_are_rejected_unless_the_filter_is_off(kept):
    speech, other, silent = tone(1.0), tone(1.0, seed=1), np.zeros(16_000, np.float32)
    members = clips(
        inverted=np.stack([speech, -speech], 1),
        quieter=np.stack([speech, -0.9 * speech], 1),
        two_speakers=np.stack([speech, other], 1),
        one_of_eight=np.stack([speech, *[silent] * 7], 1),
        silence=np.stack([silent, silent], 1),
        mono=speech,
    )
    rejects = [("inverted", "CancelledAudio"), ("quieter", "CancelledAudio")]
    assert kept(members) == (["two_speakers", "one_of_eight", "silence", "mono"], rejects)
    assert kept(members, min_mix=0.0)[1] == []


def test_floats_far_over_full_scale_are_rejected_unless_the_filter_is_off(kept):
    loud = {"over": 7.9 * tone(1.0) / np.abs(tone(1.0)).max(), "as_int16": 30_000 * tone(1.0)}
    members = [(f"{k}.wav", encode(a, format="WAV", subtype="FLOAT")) for k, a in loud.items()]
    assert kept(members) == (["over"], [("as_int16", "OverscaledAudio")])
    assert kept(members, max_peak=None)[1] == []


def test_a_filter_rejects_single_clips_of_a_recording(kept):
    members = clips(a=np.concatenate([tone(1.0), np.zeros(16_000, np.float32), tone(1.0)]))
    assert kept(members, by="fixed", max_silence=0.5) == (["a", "a"], [("a", "SilentAudio")])


def test_metadata_are_checked_before_anything_is_decoded(kept):
    members = [("a.flac", b"never read"), ("a.json", json.dumps(FIELDS).encode())]
    members += [("b.flac", encode(tone(0.5))), ("b.json", b'{"snr": 20}')]
    members += [("c.flac", encode(tone(0.5)))]
    rejects = [("a", "OtherMetadata"), ("c", "OtherMetadata")]
    assert kept(members, metadata="snr > 15") == (["b"], rejects)


def test_a_quality_function_scores_the_audio_that_the_codec_gets(kept):
    members = clips(quiet=0.1 * tone(0.5), loud=tone(0.5))
    score = "tests.quality_scores:peak"
    assert kept(members, quality=score, min_quality=0.2) == (["loud"], [("quiet", "LowQuality")])
    assert kept(members, quality="tests.quality_scores:nothing")[0] == []


def test_a_quality_function_may_be_an_entry_point(kept, tmp_path, monkeypatch):
    info = tmp_path / "site" / "scores-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: scores\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[speechmill.quality]\npeak-level = tests.quality_scores:peak\n"
    )
    monkeypatch.syspath_prepend(str(info.parent))
    assert kept(clips(a=tone(0.5)), quality="peak-level", min_quality=2.0)[0] == []


@pytest.mark.parametrize("name", ["nowhere:score", "math:nothing", "math", "math:pi"])
def test_a_missing_quality_function_is_refused(name):
    with pytest.raises(InputError, match=r"filters\.quality is"):
        Filters(FilterSettings(quality=name))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('lang == "en"', True),
        ('lang in ["de", "fr"] or snr >= 12.5', True),
        ("not (10 < snr < 12)", True),
        ("speaker.age / 2 == 15 and speaker.name is None", True),
        ('tags[0] == "a" and tags[-1] == "b" and len(tags) == 2', True),
        ('tags[-2] == "a" and tags[-3] is None', True),
        ('speaker["age"] - 1 == 28', False),
        ("missing is None and speaker.missing.deeper is None and tags[9] is None", True),
        ('lower("EN") == lang and abs(-snr) == snr', True),
        ('"c" not in tags', True),
    ],
)
def test_an_expression_has_the_value_that_python_gives_it(text, value):
    assert Expression(text, "x")(FIELDS) is value


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(["<", "<=", "==", "!=", ">", ">="]))
def test_comparisons_agree_with_python(a, b, sign):
    assert Expression(f"a {sign} b + 1", "x")({"a": a, "b": b}) == eval(f"{a} {sign} {b} + 1")


ESCAPES = [
    # code
    "__import__('os').system('true')",
    "__builtins__['eval']('1')",
    "(lambda: 1)()",
    "(lambda f: f(f))(lambda f: f(f))",
    "eval('1')",
    "getattr(lang, 'upper')",
    "type(lang)",
    "print(lang)",
    "open('/etc/passwd')",
    "tags[0]()",
    "speaker.name()",
    "len(tags)(1)",
    # methods and special names of values
    "lang.upper()",
    "lang.__class__()",
    "''.join(tags)",
    "lang.format(snr)",
    "'{0.__class__}'.format(lang)",
    "lang.format_map(speaker)",
    "'%s' % lang",
    "'%1000000000d' % 1",
    "lang.ljust(1000000000)",
    "f'{lang}'",
    "f'{lang.__class__}'",
    "f'{snr:>1000000000}'",
    "b'bytes' == lang",
    # loops and growth
    "[x for x in tags]",
    "{x for x in tags}",
    "{x: x for x in tags}",
    "(x for x in tags)",
    "[a for a in tags for b in tags for c in tags]",
    "snr ** 9",
    "9 ** 9 ** 9",
    "2 << 999999999",
    "snr // 0",
    "snr % 2",
    "tags @ tags",
    "~snr",
    "+snr",
    "snr | 1",
    "tags[0:1]",
    "tags[::2]",
    "[*tags]",
    "{**speaker}",
    "{'a': 1}",
    "{1, 2}",
    "len(*tags)",
    "len(obj=tags)",
    "len(tags, tags)",
    "len()",
    # other syntax
    "snr := 3",
    "(x := 3)",
    "lang = 'en'",
    "lang; snr",
    "import os",
    "del lang",
    "1 if snr else 2",
    "await lang",
    "(yield lang)",
    "yield lang",
    "1j == snr",
    "... is None",
    "lang is 'en'",
    "None is lang is not snr",
    "",
    "# nothing",
    "lang ==",
    "lang\0",
    # size
    "(" * 500 + ")" * 500,
    "not " * 5_000 + "snr",
    "-" * 100_000 + "1",
    "(" * 100_000,
    "speaker" + ".a" * 5_000,
    "tags" + "[0]" * 5_000,
    " and ".join(["snr > 1"] * 100),
    "9" * 5_000,
]


@pytest.mark.parametrize("text", ESCAPES, ids=lambda text: text[:40])
def test_an_expression_that_does_more_than_compare_is_refused(text):
    with pytest.raises(InputError, match=r"filters\.metadata"):
        FilterSettings(metadata=text)


@pytest.mark.parametrize(
    "name", ["__class__", "__dict__", "__globals__", "keys", "upper", "__init__.__globals__"]
)
@pytest.mark.parametrize("value", ["lang", "tags", "speaker", "snr", "missing"])
def test_names_of_attributes_are_only_keys_of_json(value, name):
    assert Expression(f"{value}.{name} is None", "x")(FIELDS) is True


@pytest.mark.parametrize("name", ["len", "lower", "abs", "eval", "__builtins__", "print"])
def test_names_of_functions_are_not_values(name):
    assert Expression(f"{name} is None", "x")(FIELDS) is True


def nested(depth: int = 100_000) -> list:
    outer: list = []
    for _ in range(depth):
        outer = [outer]
    return outer


@pytest.mark.parametrize(
    "text",
    [
        "missing > 3",
        "lang > 3",
        "lang * 9 == 1",
        "lang * 1000000000 == lang",
        "lang + lang == lang",
        "tags + tags == tags",
        "tags * 1000000000 == tags",
        "snr / 0 > 1",
        "-lang == 1",
        "len(snr) > 1",
        "abs(lang) > 1",
        "lower(snr) == lang",
        "lang in snr",
        "speaker[tags] is None",
        "deep == other",
    ],
)
def test_a_condition_without_a_value_rejects_the_sample_and_says_so(text):
    fields = FIELDS | {"deep": nested(), "other": nested()}
    with pytest.raises(OtherMetadata, match="cannot be evaluated"):
        Filters(FilterSettings(metadata=text)).check_metadata(fields)
