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
from tests.serial_pool import tokenize_one

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


def test_a_filter_rejects_single_clips_of_a_recording(kept):
    members = clips(a=np.concatenate([tone(1.0), np.zeros(16_000, np.float32), tone(1.0)]))
    assert kept(members, by="fixed", max_silence=0.5) == (["a", "a"], [("a", "SilentAudio")])


def test_metadata_are_judged_before_anything_is_decoded(kept):
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
def test_a_quality_function_that_is_not_there_is_refused(name):
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
        ('speaker["age"] - 1 == 28', False),
        ("missing is None and speaker.missing.deeper is None and tags[9] is None", True),
        ('lower("EN") == lang and abs(-snr) == snr', True),
        ('"c" not in tags', True),
    ],
)
def test_an_expression_means_what_it_means_in_python(text, value):
    assert Expression(text, "x")(FIELDS) is value


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(["<", "<=", "==", "!=", ">", ">="]))
def test_comparisons_agree_with_python(a, b, sign):
    assert Expression(f"a {sign} b + 1", "x")({"a": a, "b": b}) == eval(f"{a} {sign} {b} + 1")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[x for x in tags]",
        "snr ** 9",
        "lang.upper()",
        "len(*tags)",
        "f'{lang}'",
        "snr :=",
        "(" * 500 + ")" * 500,
        " and ".join(["snr > 1"] * 100),
        "b'bytes' == lang",
    ],
)
def test_an_expression_that_could_do_more_than_judge_is_refused(text):
    with pytest.raises(InputError, match=r"filters\.metadata"):
        FilterSettings(metadata=text)


@pytest.mark.parametrize("text", ["missing > 3", "lang > 3", "lang * 9 == 1", "snr / 0 > 1"])
def test_what_cannot_be_judged_is_rejected_and_says_so(text):
    with pytest.raises(OtherMetadata, match="cannot be judged"):
        Filters(FilterSettings(metadata=text)).check_metadata(FIELDS)
