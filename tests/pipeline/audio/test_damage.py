"""Mutations of valid files and tars: what is broken is found, and nothing else fails."""

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import SampleError, ShardError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.tar_reader import read_samples
from speechmill.pipeline.storage import Storage
from tests.corpus import tar_bytes
from tests.damage import DAMAGES, FORMATS, SECONDS, TAR_DAMAGES, good

seeds = st.integers(0, 2**32).map(Random)


@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("format", FORMATS)
def test_a_good_file_of_every_format_passes(format, variant):
    decoded = decode_audio(good(format, variant), 16_000, AudioSettings(), Limits())
    assert decoded.duration == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("damage", DAMAGES)
@settings(max_examples=60)
@given(data=st.data(), random=seeds)
def test_a_damaged_file_is_rejected(damage, data, random):
    format = data.draw(st.sampled_from(DAMAGES[damage]))
    file = damage(good(format, 0), format, random)
    with pytest.raises(SampleError):
        decode_audio(file, 16_000, AudioSettings(), Limits())


@settings(max_examples=150)
@given(
    format=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=6),
)
@example("m4a", [(0.9144851923427485, bytes(7) + b"\x01")])  # names an unknown codec
def test_a_mutated_file_is_decoded_or_rejected_with_the_same_result_every_time(format, edits):
    file = bytearray(good(format, 0))
    for place, written in edits:
        at = int(place * len(file))
        file[at : at + len(written)] = written
    assert result_of(bytes(file)) == result_of(bytes(file))


def result_of(file: bytes) -> object:
    try:
        return decode_audio(file, 16_000, AudioSettings(), Limits(seconds=60)).audio_T.tobytes()
    except SampleError as error:
        return type(error), str(error)


@pytest.mark.parametrize("damage", TAR_DAMAGES)
@settings(max_examples=40)
@given(random=seeds)
def test_a_damaged_tar_is_refused_as_a_whole(damage, random):
    storage = Storage()
    whole = tar_bytes([(f"{n}.wav", good("wav", 0)) for n in range(4)])
    storage.put("memory://damage/a.tar", damage(whole, random))
    [shard] = list_shards(["memory://damage/a.tar"], storage)
    with pytest.raises(ShardError):
        list(read_samples(shard, storage, 10**9))
