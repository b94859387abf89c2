"""A thousand files, half of them broken in every way we know, in tars that may be broken too."""

from random import Random

import pyarrow.parquet as pq

from tests.corpus import tar_bytes
from tests.damage import FORMATS, TAR_DAMAGES, damaged, good, suffix

FILES, SHARDS = 1_000, 20


def members(count: int, first: int, random: Random) -> tuple[list[tuple[str, bytes]], set[str]]:
    """Files for one tar, and the keys of the broken ones, which name the damage."""
    files, broken = [], set()
    for number in range(first, first + count):
        if random.random() < 0.5:
            damage, format, data = damaged(random)
            key = f"{number:04d}-{damage}-{format}"
            broken.add(key)
        else:
            format = random.choice(FORMATS)
            key, data = f"{number:04d}-{format}", good(format, random.randrange(4))
        files.append((f"{key}.{suffix(format)}", data))
    return files, broken


def test_a_corpus_of_good_and_broken_files_loses_exactly_the_broken_ones(
    tmp_path, config, speechmill
):
    random = Random(20260101)
    (tmp_path / "in").mkdir()
    expected: set[str] = set()
    broken: set[str] = set()
    for shard in range(SHARDS):
        files, bad = members(FILES // SHARDS, shard * FILES // SHARDS, random)
        (tmp_path / "in" / f"{shard:02d}.tar").write_bytes(tar_bytes(files))
        expected |= {name.partition(".")[0] for name, _ in files}
        broken |= bad
    for number in range(6):
        whole = tar_bytes(members(5, FILES, random)[0])
        data = TAR_DAMAGES[number % len(TAR_DAMAGES)](whole, random)
        (tmp_path / "in" / f"damaged-{number}.tar").write_bytes(data)
    done = speechmill("tokenize", config(tmp_path / "in", tmp_path / "out"))
    assert done.returncode == 1, done.stderr
    assert set(pq.read_table(tmp_path / "out" / "rejects")["key"].to_pylist()) == broken
    rows = pq.read_table(tmp_path / "out" / "tokens")["key"].to_pylist()
    assert (set(rows), len(rows)) == (expected - broken, FILES - len(broken))
    failed = sorted(path.name[:9] for path in (tmp_path / "out" / "failed").iterdir())
    assert failed == [f"damaged-{number}" for number in range(6)]
