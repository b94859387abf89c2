import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechmill.codecs import CheckpointError
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.enhance.api import EnhancerSettings, load_enhancer
from speechmill.pipeline.enhance.gate import GateSettings
from speechmill.pipeline.enhance.paired_shards import EnhanceJob, PairedShards, pairs_identity
from speechmill.pipeline.enhance.pairs import PairSettings, pair_shard, read_shard
from speechmill.pipeline.errors import DatasetConflict, StreamBroken
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from tests.corpus import clip, encode, tar_bytes, tone


@pytest.fixture
def gating():
    return load_enhancer(EnhancerSettings("spectral-gating"))


@pytest.fixture
def pair(storage, gating, tmp_path):
    """Pair the samples of a tar with these members; gives the members that came out."""

    def pair(members, settings=None, enhancer=gating):
        storage.put(f"{tmp_path}/in.tar", tar_bytes(members))
        [shard] = list_shards([f"{tmp_path}/in.tar"], storage)
        settings = settings or PairSettings()
        samples = read_shard(shard, storage, settings.limits)
        paired = pair_shard(samples, shard, enhancer, settings)
        return contents(paired.data), paired

    return pair


def contents(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def samples_of(flac):
    audio, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    return audio, rate


def test_a_sample_keeps_its_members_and_gains_its_enhanced_audio(pair):
    given = [("a.b/c.flac", clip(0.7)), ("a.b/c.json", b'{"text": "\xc3\xbc"}')]
    members, paired = pair(given)
    assert list(members) == [n for n, _ in given] + ["a.b/c.enhanced.flac", "a.b/c.enhanced.json"]
    assert all(members[name] == data for name, data in given)
    facts = json.loads(members["a.b/c.enhanced.json"])
    assert (facts["enhanced"], facts["enhancer"]) == (True, "spectral-gating")
    assert (paired.report.rows, paired.report.left_alone) == (1, 0)


@pytest.mark.parametrize(("rate", "format"), [(16_000, "FLAC"), (44_100, "WAV"), (8_000, "MP3")])
def test_enhanced_audio_has_the_length_of_the_original_at_the_enhancers_rate(pair, rate, format):
    data = encode(tone(0.913, rate), rate, format)
    members, _ = pair([(f"a.{format.lower()}", data)])
    original = decode_audio(data, 16_000, AudioSettings(), Limits()).audio_T
    audio, found = samples_of(members["a.enhanced.flac"])
    assert (len(audio), found) == (len(original), 16_000)


def test_a_clean_clip_is_not_enhanced_and_marked(pair):
    clean = tone(1.0) * (np.arange(16_000) // 4000 % 2)
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(16_000)
    given = [("clean.flac", encode(clean)), ("noisy.flac", encode(noisy))]
    members, paired = pair(given, PairSettings(gate=GateSettings(snr_db=30)))
    assert paired.report.left_alone == 1
    for key, enhanced in (("clean", False), ("noisy", True)):
        assert json.loads(members[f"{key}.enhanced.json"])["enhanced"] == enhanced
        same = np.array_equal(
            *(samples_of(members[f"{key}{kind}.flac"])[0] for kind in ("", ".enhanced"))
        )
        assert same != enhanced


def test_tokenizing_pairs_reads_the_original_audio(pair, storage, tmp_path, null_codec):
    _, paired = pair([("a.flac", clip(0.5)), ("b.wav", encode(tone(0.5), format="WAV"))])
    storage.put(f"{tmp_path}/paired.tar", paired.data)
    [shard] = list_shards([f"{tmp_path}/paired.tar"], storage)
    *_, end = decode_shard(shard, storage, DecodeSettings(), [null_codec.info])
    assert end.rejects == []


def test_the_same_shard_gives_the_same_bytes(pair):
    given = [("a.flac", clip(0.5)), ("b.flac", clip(0.6))]
    assert pair(given)[1].data == pair(given)[1].data


def test_samples_that_cannot_be_enhanced_are_rejected_with_the_reason(pair):
    given = [
        ("bad.flac", b"junk"),
        ("done.flac", clip()),
        ("done.enhanced.flac", clip()),
        ("good.flac", clip()),
        ("none.txt", b"no audio"),
    ]
    members, paired = pair(given)
    assert {name.split(".")[0] for name in members} == {"good"}
    errors = {reject.key: reject.error for reject in paired.rejects}
    assert errors == {"bad": "UndecodableAudio", "done": "UnsuitableAudio", "none": "NoAudio"}
    assert [reject.index for reject in paired.rejects] == [0, 1, 3]


class Shortening:
    """An enhancer that breaks its promise."""

    name, revision, sample_rate = "shortening", "0", 16_000

    def enhance(self, audio_T):
        return audio_T[:-1]


def test_an_enhancer_that_changes_the_length_gives_no_pair(pair):
    members, paired = pair([("a.flac", clip())], enhancer=Shortening())
    assert members == {}
    assert "gave 15999 samples of 16000" in paired.rejects[0].message


def test_a_missing_model_is_not_the_fault_of_the_samples(pair):
    gate = GateSettings(dnsmos_ovr=3.0, dnsmos="none.onnx")
    with pytest.raises(CheckpointError, match=r"none\.onnx"):
        pair([("a.flac", clip())], PairSettings(gate=gate))


def test_samples_that_end_before_the_shard_give_no_tar(storage, tmp_path, gating):
    storage.put(f"{tmp_path}/in.tar", tar_bytes([("a.flac", clip())]))
    [shard] = list_shards([f"{tmp_path}/in.tar"], storage)
    *samples, _ = read_shard(shard, storage, Limits())
    with pytest.raises(StreamBroken):
        pair_shard(samples, shard, gating, PairSettings())


def in_place(function, *arguments):
    return function(*arguments)


def run_job(job, shard):
    return job.load()(shard, in_place, Isolation.NONE, [0])


def test_a_shard_is_committed_with_its_report_and_its_rejects(storage, tmp_path, gating):
    storage.put(f"{tmp_path}/in.tar", tar_bytes([("a.flac", clip()), ("b.flac", b"")]))
    [shard] = list_shards([f"{tmp_path}/in.tar"], storage)
    settings = EnhancerSettings("spectral-gating")
    job = EnhanceJob(f"{tmp_path}/out", storage, settings, gating.revision, PairSettings())
    run_job(job, shard)
    output = PairedShards(f"{tmp_path}/out", storage)
    assert output.todo([shard]) == []
    assert output.report(shard.name)["source"]["url"] == shard.url
    [row] = pq.read_table(f"{tmp_path}/out/rejects/{shard.name}.parquet").to_pylist()
    assert (row["key"], row["stage"]) == ("b", "enhance")


def test_a_worker_with_other_weights_than_the_driver_is_refused(storage, tmp_path):
    settings = EnhancerSettings("spectral-gating")
    job = EnhanceJob(f"{tmp_path}/out", storage, settings, "0123456789abcdef", PairSettings())
    with pytest.raises(CheckpointError, match="same weights"):
        job.load()


def test_an_output_of_another_enhancer_or_gate_is_refused(storage, tmp_path, gating, tiny_onnx):
    output = PairedShards(f"{tmp_path}/out", storage)
    output.claim(pairs_identity(gating, PairSettings()))
    output.claim(pairs_identity(gating, PairSettings()))
    with pytest.raises(DatasetConflict, match="holds pairs of gate"):
        output.claim(pairs_identity(gating, PairSettings(gate=GateSettings(snr_db=30))))
    other = load_enhancer(EnhancerSettings("onnx", str(tiny_onnx)))
    with pytest.raises(DatasetConflict, match="holds pairs of enhancer = 'spectral-gating'"):
        output.claim(pairs_identity(other, PairSettings()))


def test_a_tar_that_was_replaced_after_it_was_paired_is_noticed(storage, tmp_path, gating):
    settings = EnhancerSettings("spectral-gating")
    job = EnhanceJob(f"{tmp_path}/out", storage, settings, gating.revision, PairSettings())
    for data in (clip(1.0), clip(2.0)):
        storage.put(f"{tmp_path}/in.tar", tar_bytes([("a.flac", data)]))
        [shard] = list_shards([f"{tmp_path}/in.tar"], storage)
        if data == clip(1.0):
            run_job(job, shard)
    with pytest.raises(DatasetConflict, match=r"in\.tar has changed since it was read"):
        PairedShards(f"{tmp_path}/out", storage).todo([shard])
