"""`compact` as users type it, and the other commands on what it wrote."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.dataset.layout import TokenDataset
from tests.jobs.conftest import invoke
from tests.jobs.datasets import make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> TokenDataset:
    return make_dataset(tmp_path)


@pytest.fixture
def compacted(tmp_path: Path, dataset: TokenDataset) -> str:
    done = invoke("compact", dataset.root, tmp_path / "compacted")
    assert done.exit_code == 0, done.output
    assert "part-00000  2 parts, 8 utterances, 1 row groups" in done.stdout
    return str(tmp_path / "compacted")


def test_status_report_and_export_read_a_compacted_dataset(tmp_path, dataset, compacted):
    assert "compacted      from 2 parts of" in invoke("status", compacted).stdout
    assert invoke("report", compacted).stdout.strip().startswith(f"{compacted}/report.html")
    assert invoke("export", compacted, tmp_path / "exported").exit_code == 0
    [exported] = (tmp_path / "exported" / "data").iterdir()
    keys = pq.read_table(f"{dataset.root}/tokens")["key"]
    assert pq.read_table(exported)["key"].to_pylist() == keys.to_pylist()


def test_tokenize_and_plan_refuse_a_compacted_dataset_and_name_its_source(dataset, compacted):
    [config] = Path(dataset.root, "runs").glob("*/config.yaml")
    for command in ("tokenize", "plan"):
        done = invoke(command, config, f"output={compacted}", "workers.count=0")
        assert done.exit_code == 2
        assert f"was compacted; tokenize into {dataset.root}, from which" in done.stderr


def test_verify_names_the_shard_of_a_row_that_was_changed(dataset, compacted):
    done = invoke("verify", compacted, "--source", f"{dataset.root}/../in", "--keys", "--json")
    found = json.loads(done.stdout)
    assert (found["faults"], found["parts"], found["sources_read"], found["rows"]) == ([], 2, 2, 8)
    url = f"{compacted}/tokens/part-00000.parquet"
    table = pq.read_table(url)
    keys = ["changed", *table["key"].to_pylist()[1:]]
    place = table.schema.get_field_index("key")
    pq.write_table(table.set_column(place, table.schema.field(place), [keys]), url)
    done = invoke("verify", compacted, "--source", f"{dataset.root}/../in", "--json")
    faults = json.loads(done.stdout)["faults"]
    assert [fault["check"] for fault in faults] == ["keys"]


def test_a_clip_of_a_compacted_dataset_is_decoded_to_the_file_that_it_was_before(
    tmp_path, dataset, compacted
):
    for root, output in ((dataset.root, "before"), (compacted, "after")):
        assert invoke("decode", root, tmp_path / output, "--limit", 6).exit_code == 0
    before = sorted((tmp_path / "before").rglob("*.flac"))
    for path in before:
        after = tmp_path / "after" / path.relative_to(tmp_path / "before")
        assert after.read_bytes() == path.read_bytes()
    assert len(before) == 6


def test_a_run_that_did_not_end_is_noted(tmp_path, dataset):
    [summary] = Path(dataset.root, "runs").glob("*/summary.json")
    summary.unlink()
    done = invoke("compact", dataset.root, tmp_path / "compacted")
    assert "the last run did not end: parts that come later will be missing" in done.stdout
