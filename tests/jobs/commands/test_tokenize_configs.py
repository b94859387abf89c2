"""Every configuration under configs/tokenize runs on real speech with random weights."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.codecs.cases import PURE
from tests.codecs.dualcodec.goldens import SMALL as DUALCODEC
from tests.codecs.focalcodec.small import tiny
from tests.codecs.hasrd.small import TINY as HASRD
from tests.codecs.simwhisper.golden import CONFIG as SIMWHISPER
from tests.conftest import REAL_SPEECH, REPOSITORY
from tests.corpus import tar_bytes
from tests.jobs.conftest import invoke

SMALL = {  # of each family; the full sizes take minutes on a CPU
    "focalcodec": tiny(),
    "dualcodec": json.loads((DUALCODEC / "config.json").read_text()),
    "simwhisper": json.loads(SIMWHISPER.read_text()),
    "pure": PURE,
    "hasrd": HASRD,
}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Pack a few recordings: from the folder of real speech if it is there, else the samples."""
    folder = REAL_SPEECH if REAL_SPEECH.is_dir() else REPOSITORY / "samples"
    files = sorted(folder.rglob("*.flac"), key=lambda path: path.stat().st_size)[:4]
    members = [(f"{i}.flac", path.read_bytes()) for i, path in enumerate(files)]
    (tmp_path / "speech.tar").write_bytes(tar_bytes(members))
    return tmp_path / "speech.tar"


@pytest.mark.parametrize("family", SMALL)
def test_every_codec_s_configuration_tokenizes_speech_and_says_that_it_is_untrained(
    family, shard, tmp_path
):
    (tmp_path / "small.json").write_text(json.dumps(SMALL[family]))
    done = invoke(
        "tokenize",
        REPOSITORY / "configs" / "tokenize" / f"{family}.yaml",
        f"shards=[{shard}]",
        f"output={tmp_path}/out",
        f"codec.name={family}",
        f"codec.config={tmp_path}/small.json",
        "codec.checkpoint=untrained",
        "workers={num_gpus: 0, count: 0}",
    )
    assert done.exit_code == 0, done.output
    assert f"{family} (untrained)" in done.stdout
    [part] = (tmp_path / "out" / "tokens").glob("*.parquet")
    rows = pq.read_table(part, columns=["codes", "num_frames", "num_codebooks"]).to_pylist()
    assert len(rows) == 4
    for row in rows:
        assert len(row["codes"]) == row["num_frames"] * row["num_codebooks"] > 0
    assert len({code for row in rows for code in row["codes"]}) > 20
