"""One pass over the audio, several datasets."""

from hashlib import sha256

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.config import TokenizeConfig, load_config
from pipeline.errors import InputError
from pipeline.storage import Storage
from tests.corpus import clip, encode, tar_bytes, tone

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


def test_each_dataset_is_what_a_run_of_its_codec_alone_writes_also_after_a_resume(
    tmp_path, config, speechmill, shards
):
    path = config(shards, tmp_path / "alone")
    cut = ["segment.by=fixed", "segment.seconds=1", "segment.context_seconds=0.2"]
    cut += ["filters.max_silence=0.5"]
    names = ("null", "pure-16k-small")
    for name in names:
        options = [f"codec.name={name}", f"output={tmp_path}/alone/{name}", *cut]
        assert speechmill("tokenize", path, *options).returncode == 0
    together = [f"codecs={CODECS}", f"output={tmp_path}/both", *cut]
    first = speechmill("tokenize", path, *together)
    assert (first.returncode, "2/2 shards" in first.stdout) == (0, True), first.stderr
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    lost = next((tmp_path / "both" / "null" / "tokens").iterdir())
    kept = next((tmp_path / "both" / "pure-16k-small" / "tokens").iterdir()).stat().st_mtime_ns
    lost.unlink()
    assert "1/1 shards" in speechmill("tokenize", path, *together).stdout
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")
    part = next((tmp_path / "both" / "pure-16k-small" / "tokens").iterdir())
    assert part.stat().st_mtime_ns == kept
    assert len(pq.read_table(tmp_path / "both" / "null" / "tokens")) == 8
    planned = speechmill("plan", path, *together).stdout
    assert all(name in planned for name in names)
    for name in names:
        assert speechmill("verify", tmp_path / "both" / name, "--reencode", 3).returncode == 0


def several(tmp_path, codecs: str) -> list[TokenizeConfig]:
    path = tmp_path / "c.yaml"
    path.write_text(f"shards: [x]\noutput: out\ncodec: {{precision: bf16}}\ncodecs: {codecs}\n")
    return load_config(TokenizeConfig, path, []).for_each_codec()


def test_each_codec_has_its_name_its_folder_and_what_is_said_of_all(tmp_path):
    one, two = several(tmp_path, "[pure-4k, {name: null, precision: fp32}]")
    assert (one.codec.name, one.codec.precision, one.output) == ("pure-4k", "bf16", "out/pure-4k")
    assert (two.codec_options()["name"], two.codec.precision) == ("null", "fp32")
    assert (two.output, two.codecs) == ("out/null", [])


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        ("[pure-4k, pure-4k]", "one codec twice"),
        ("[{name: pure-4k, precison: fp32}]", r"codecs\[0\]\.precision"),
        ("[{name: [1]}]", r"codecs\[0\]"),
    ],
)
def test_entries_that_are_no_codecs_are_refused(tmp_path, codecs, message):
    with pytest.raises(InputError, match=message):
        several(tmp_path, codecs)
