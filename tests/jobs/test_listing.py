"""To find the shards that are left costs a request per page of a listing, not per shard."""

import json
from collections import Counter

import pytest
from aiobotocore.client import AioBaseClient

from speechmill.pipeline import s3_ranges
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import clip, corpus, tar_bytes
from tests.jobs.conftest import invoke
from tests.s3_server import fill_moto

SHARDS = 1100
PAGES = 2  # of at most 1,000 objects


@pytest.fixture
def requests(monkeypatch) -> Counter[str]:
    """The number of calls to S3, by operation."""
    calls: Counter[str] = Counter()
    call = AioBaseClient._make_api_call

    async def counted(self, operation, arguments):
        calls[operation] += 1
        return await call(self, operation, arguments)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", counted)
    fetch = s3_ranges.fetch

    def fetched(*arguments):
        calls["GetObject"] += 1
        return fetch(*arguments)

    monkeypatch.setattr(s3_ranges, "fetch", fetched)
    return calls


@pytest.mark.parametrize(
    "source",
    ["in/", "in/s-*.tar", f"in/s-{{00000..{SHARDS - 1:05d}}}.tar"],
    ids=["folder", "glob", "names"],
)
def test_resuming_many_shards_takes_one_listing_of_each_folder(moto, moto_bucket, requests, source):
    storage = Storage({"s3": moto.storage_options})
    fill_moto(moto_bucket, [f"in/s-{i:05d}.tar" for i in range(SHARDS)])
    shards = list_shards([f"{moto_bucket}/{source}"], storage)
    assert len(shards) == SHARDS
    fill_moto(moto_bucket, [f"out/tokens/{shard.name}.parquet" for shard in shards[:-25]])
    requests.clear()
    assert list_shards([f"{moto_bucket}/{source}"], storage) == shards
    assert TokenDataset(f"{moto_bucket}/out", storage).todo(shards) == shards[-25:]
    assert requests["ListObjectsV2"] <= 2 * PAGES
    assert requests.total() <= 2 * PAGES + 2


def test_a_manifest_in_many_folders_is_listed_by_folder(moto, moto_bucket, requests):
    storage = Storage({"s3": moto.storage_options})
    names = [f"in/{i % 5}/s-{i:04d}.tar" for i in range(500)]
    fill_moto(moto_bucket, names)
    storage.put(f"{moto_bucket}/all.txt", "\n".join(names).encode())
    requests.clear()
    assert len(list_shards([f"{moto_bucket}/all.txt"], storage)) == 500
    assert requests.total() <= 1 + 2 * 5


def test_a_plan_counts_the_requests_that_the_run_then_makes(
    tmp_path, moto, moto_bucket, requests, monkeypatch
):
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage()
    odd = {"odd.tar": tar_bytes([("a.flac", clip(0.5)), ("b.flac", b"junk")])}
    for name, data in (corpus(num_shards=3, clips_per_shard=2, seconds=0.4) | odd).items():
        storage.put(f"{moto_bucket}/in/{name}", data)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"shards: [{moto_bucket}/in/]\noutput: {moto_bucket}/out\ncodec: {{name: 'null'}}"
    )
    local = ("workers.count=0", "workers.num_gpus=0")
    [plan] = json.loads(invoke("plan", path, *local, "--probe", 4, "--json").stdout)
    planned = plan["run"]["requests"]
    requests.clear()
    assert invoke("tokenize", path, *local).exit_code == 0
    made = [requests[name] for name in ("GetObject", "HeadObject", "ListObjectsV2", "PutObject")]
    for name, count in zip(("get", "head", "list", "put"), made, strict=True):
        assert planned[name] == pytest.approx(count, abs=2), (name, made, planned)
