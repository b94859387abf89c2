"""One pass over the audio, several datasets."""

from hashlib import sha256

import numpy as np
import pytest

from speechmill.codecs import load_codec
from speechmill.jobs.config import for_each_codec, load_config
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings
from tests.corpus import clip, encode, tar_bytes, tone
from tests.jobs.conftest import invoke
from tests.one_shard import tokenize_one

CODECS = "[null, {name: pure-16k-small, precision: fp32}]"


def digests(folder):
    files = [path for path in folder.rglob("*") if path.suffix == ".parquet"]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def shards(tmp_path):
    for name in ("x", "y"):
        silence = encode(np.zeros(16_000, np.float32))
        members = [(f"{name}.wav", encode(tone(2.3, 44_100), 44_100, "WAV")), ("b.flac", b"junk")]
        members += [("c.flac", clip(0.7)), ("d.flac", silence)]
        Storage().put(f"{tmp_path}/in/{name}.tar", tar_bytes(members))
    return tmp_path / "in"


def alone(shards, output, names, settings):
    storage = Storage()
    for shard in list_shards([str(shards)], storage):
        for name in names:
            tokenize_one(shard, f"{output}/{name}", storage, load_codec(name), settings)


def test_each_dataset_equals_that_of_a_run_with_one_codec_also_after_a_resume(
    tmp_path, config, shards
):
    names = ("null", "pure-16k-small")
    settings = DecodeSettings(
        segment=SegmentSettings("fixed", seconds=1.0, context_seconds=0.2),
        filters=FilterSettings(max_silence=0.5),
    )
    alone(shards, tmp_path / "alone", names, settings)
    options = [f"codecs={CODECS}", f"output={tmp_path}/both", "filters.max_silence=0.5"]
    options += ["segment.by=fixed", "segment.seconds=1", "segment.context_seconds=0.2"]
    path = config(shards, tmp_path / "both")
    first = invoke("tokenize", path, *options, "workers.count=0")
    assert (first.exit_code, "2/2 shards" in first.stdout) == (0, True), first.output
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    next((tmp_path / "both" / "null" / "tokens").iterdir()).unlink()
    kept = next((tmp_path / "both" / "pure-16k-small" / "tokens").iterdir())
    before = kept.stat().st_mtime_ns
    assert "1/1 shards" in invoke("tokenize", path, *options).stdout
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    assert kept.stat().st_mtime_ns == before
    dataset = tmp_path / "both" / "pure-16k-small"
    verified = invoke("verify", dataset, "--source", shards, "--reencode", 3)
    assert verified.exit_code == 0, verified.stdout


def several(tmp_path, codecs: str) -> list[TokenizeConfig]:
    path = tmp_path / "c.yaml"
    path.write_text(f"shards: [x]\noutput: /out\ncodec: {{precision: bf16}}\ncodecs: {codecs}\n")
    return for_each_codec(load_config(TokenizeConfig, path, []))


def test_each_codec_has_its_name_its_folder_and_the_common_settings(tmp_path):
    one, two = several(tmp_path, "[pure-4k, {name: null, precision: fp32}]")
    assert (one.codec.name, one.codec.precision, one.output) == ("pure-4k", "bf16", "/out/pure-4k")
    assert (two.codec_options()["name"], two.codec.precision) == ("null", "fp32")
    assert (two.output, two.codecs) == ("/out/null", [])


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        ("[pure-4k, pure-4k]", "one codec twice"),
        ("[{name: pure-4k, precison: fp32}]", r"codecs\[0\]\.precision"),
        ("[{name: [1]}]", r"codecs\[0\]"),
    ],
)
def test_entries_that_are_not_codecs_are_refused(tmp_path, codecs, message):
    with pytest.raises(InputError, match=message):
        several(tmp_path, codecs)
