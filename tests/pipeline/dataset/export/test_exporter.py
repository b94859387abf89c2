"""What an export promises whatever its format."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.dataset.export.exporter import Export, export_dataset
from speechmill.pipeline.dataset.export.folder import ExportFolder
from speechmill.pipeline.dataset.export.formats import FORMATS
from speechmill.pipeline.dataset.export.ids import PatternIds, TemplateIds
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.templates import make_template
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import DatasetConflict, InputError
from tests.pipeline.dataset.export.odd_dataset import SIZES, odd_dataset, stored, write_part
from tests.pipeline.dataset.export.readers import READERS
from tests.stopping_store import Stopped, StoppingStore

ROOT = "stopping://store"
PARALLEL = PatternIds(make_pattern("parallel", SIZES))
FLAT = PatternIds(make_pattern("flatten", SIZES))


def options(format: str, **changes) -> Export:
    ids = FLAT if FORMATS[format].one_sequence else PARALLEL
    return Export(**{"format": format, "ids": ids, "codebooks": len(SIZES)} | changes)


def run(dataset: TokenDataset, output: object, export: Export) -> list[str]:
    return [record.part for record in export_dataset(dataset, str(output), export)]


@pytest.fixture
def store() -> TokenDataset:
    """A dataset of three parts, one without rows, in a store that can stop."""
    StoppingStore.begin()
    StoppingStore.store.clear()
    dataset = odd_dataset(f"{ROOT}/tokens", {"in/a.tar": ["a", "b"], "in/b.tar": ["c"]})
    write_part(dataset, "in/none.tar", [])
    return dataset


def clear_output() -> None:
    for path in [path for path in StoppingStore.store if path.startswith("/store/out/")]:
        del StoppingStore.store[path]


def stop_everywhere(dataset: TokenDataset, export: Export, before=clear_output) -> None:
    """Stop an export at each of its operations, then run it again, and compare all bytes."""
    clear_output()
    StoppingStore.begin()
    run(dataset, f"{ROOT}/out", export)
    calm = StoppingStore.files("/store/out/")
    seen: list[dict[str, bytes]] = []
    for n in range(StoppingStore.operations):
        before()
        StoppingStore.begin(stop_after=n)
        with contextlib.suppress(Stopped):
            run(dataset, f"{ROOT}/out", export)
        if (left := StoppingStore.files("/store/out/")) in seen:  # the operation was a read
            continue
        seen.append(left)
        StoppingStore.begin()
        run(dataset, f"{ROOT}/out", export)
        assert StoppingStore.files("/store/out/") == calm, f"stopped after operation {n}"
    assert len(seen) > 3


@pytest.mark.parametrize("format", FORMATS)
def test_stopped_at_any_operation_and_run_again_an_export_has_the_same_bytes(store, format):
    stop_everywhere(store, options(format))


def test_an_export_follows_its_dataset_wherever_it_is_stopped(store):
    """A part is written again after it changed, and removed with its part."""
    export = options("megatron")
    run(store, f"{ROOT}/out", export)
    write_part(store, "in/more.tar", ["d"])
    run(store, f"{ROOT}/out", export)
    before = dict(StoppingStore.store)
    store.storage.delete(store.part_url(next(p for p in store.parts() if p.startswith("more"))))
    [changed] = [part for part in store.parts() if part.startswith("b-")]
    store.storage.delete(store.part_url(changed))
    write_part(store, "in/b.tar", [])

    def restore() -> None:
        clear_output()
        StoppingStore.store |= {p: f for p, f in before.items() if p.startswith("/store/out/")}

    stop_everywhere(store, export, restore)
    assert {name for name in StoppingStore.files("/store/out/") if "/" not in name} == {
        "blend.txt",
        "export.json",
    }


def test_what_a_killed_write_left_does_not_disturb_the_readers(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a"]})
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / ".export.json.1.tmp").touch()
    run(dataset, tmp_path / "to", options("lhotse"))
    (tmp_path / "to" / "data" / ".cuts.a.jsonl.gz.1.tmp").touch()
    run(dataset, tmp_path / "to", options("lhotse"))
    assert [key for key, _ in READERS["lhotse"](tmp_path / "to")] == ["a"]
    assert not list((tmp_path / "to").rglob("*.tmp"))


def test_an_export_goes_on_while_its_dataset_grows(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a", "b"]})
    assert len(run(dataset, tmp_path / "to", options("hf"))) == 1
    assert len(list(READERS["hf"](tmp_path / "to"))) == 2  # `datasets` caches these rows
    write_part(dataset, "in/b.tar", ["c"])
    assert [name[0] for name in run(dataset, tmp_path / "to", options("hf"))] == ["b"]
    assert run(dataset, tmp_path / "to", options("hf")) == []
    assert (
        "\n3 documents: 0.00 hours of speech, 10 frames."
        in (tmp_path / "to" / "README.md").read_text()
    )
    assert len(list(READERS["hf"](tmp_path / "to"))) == 3


def test_a_folder_with_other_files_or_another_export_is_refused_with_the_difference(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a"]})
    (tmp_path / "mine" / ".git").mkdir(parents=True)
    (tmp_path / "mine" / ".git" / "config").touch()
    run(dataset, tmp_path / "mine", options("memmap"))
    with pytest.raises(DatasetConflict, match="format = 'memmap', this one has 'kaldi'"):
        run(dataset, tmp_path / "mine", options("kaldi"))
    other = PatternIds(make_pattern("delay", SIZES))
    with pytest.raises(DatasetConflict, match=r"pattern\.name = 'parallel', this one has 'delay'"):
        run(dataset, tmp_path / "mine", options("memmap", ids=other))
    with pytest.raises(InputError, match="white space, at which the readers of megatron"):
        run(dataset, tmp_path / "my tokens", options("megatron"))
    with pytest.raises(DatasetConflict, match=r"where = None, this one has 'duration > 1'"):
        run(dataset, tmp_path / "mine", options("memmap", where=Where("duration > 1")))
    (tmp_path / "mine" / "export.json").write_text('{"format": "memmap", "codec": "null"}')
    with pytest.raises(DatasetConflict, match="export_version None"):
        run(dataset, tmp_path / "mine", options("memmap"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a.txt").touch()
    with pytest.raises(InputError, match=r"not empty, it holds a\.txt"):
        run(dataset, tmp_path / "used", options("memmap"))
    with pytest.raises(InputError, match="tokens/x is in the dataset; set a folder outside"):
        run(dataset, f"{dataset.root}/tokens/x", options("parquet"))


@pytest.mark.parametrize("format", ["memmap", "kaldi"])
def test_of_two_exports_that_begin_at_once_the_first_has_the_folder(tmp_path, monkeypatch, format):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a"]})
    check = ExportFolder._refuse_other_files

    def check_late(folder: ExportFolder) -> None:
        monkeypatch.undo()
        run(dataset, tmp_path / "to", options("memmap"))
        check(folder)

    monkeypatch.setattr(ExportFolder, "_refuse_other_files", check_late)
    other = pytest.raises(DatasetConflict, match="format = 'memmap', this one has 'kaldi'")
    with contextlib.nullcontext() if format == "memmap" else other:
        assert run(dataset, tmp_path / "to", options(format)) == []


def test_a_part_of_another_codec_or_schema_is_refused_by_its_name(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a"]})
    for changes, message in (
        ({"codec": {"revision": "other"}}, "revision is 'other'"),
        ({"schema_version": 2}, "schema_version is 2"),
    ):
        with rewritten_footer(dataset, changes) as part, pytest.raises(DatasetConflict) as refused:
            run(dataset, tmp_path / "to", options("parquet"))
        assert part in str(refused.value)
        assert message in str(refused.value)
    assert not (tmp_path / "to").exists()


@contextlib.contextmanager
def rewritten_footer(dataset, changes):
    """Change the footer of its only part for a while."""
    [part] = dataset.parts()
    url = dataset.part_url(part)
    whole = dataset.storage.read_bytes(url)
    table = pq.read_table(io.BytesIO(whole))
    footer = json.loads(table.schema.metadata[b"speechmill"])
    for name, value in changes.items():
        footer[name] = footer[name] | value if isinstance(value, dict) else value
    pq.write_table(table.replace_schema_metadata({"speechmill": json.dumps(footer)}), url)
    yield part
    dataset.storage.put(url, whole)


@pytest.mark.parametrize("damage", ["cut", "rubbish", "bit", "codes", "no codes", "null"])
def test_a_damaged_part_is_one_line_with_its_name(tmp_path, damage):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a"], "in/b.tar": ["b"]})
    part = min(dataset.parts())
    path = Path(dataset.part_url(part))
    data, table = path.read_bytes(), pq.read_table(path)
    codes = [[5000] * len(each) for each in table["codes"].to_pylist()]
    damaged = {
        "cut": lambda: data[: len(data) // 2],
        "rubbish": lambda: b"\0" * 100,
        "bit": lambda: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        "codes": lambda: parquet(
            table.set_column(1, table.field(1), pa.array(codes, table.field(1).type))
        ),
        "no codes": lambda: parquet(table.drop_columns(["codes"])),
        "null": lambda: parquet(table.set_column(0, "key", pa.nulls(1, pa.string()))),
    }
    path.write_bytes(damaged[damage]())
    with pytest.raises(InputError, match=f"{part}.*is damaged.*see `speechmill verify`") as error:
        run(dataset, tmp_path / "to", options("webdataset"))
    assert "\n" not in str(error.value)


def parquet(table: pa.Table) -> bytes:
    pq.write_table(table, sink := io.BytesIO())
    return sink.getvalue()


def test_a_condition_chooses_rows_by_their_columns_and_metadata(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"))
    where = Where("metadata.speaker == 1 and text is not None")
    run(dataset, tmp_path / "to", options("lhotse", where=where))
    wanted = [
        key
        for name in sorted(dataset.parts())
        for row, key in enumerate(dataset.read_columns(name, ["key"])["key"].to_pylist())
        if row % 2 == 1 and row % 3 != 2
    ]
    assert [key for key, _ in READERS["lhotse"](tmp_path / "to")] == wanted
    assert json.loads((tmp_path / "to" / "export.json").read_text())["where"] == where.text


def test_rows_of_a_recording_are_one_document_though_row_groups_cut_them(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["call"] * 9}, segments=3)
    template = make_template(make_pattern("flatten", SIZES), "interleaved", without_text="skip")
    export = options("memmap", ids=TemplateIds(template))
    run(dataset, tmp_path / "to", export)
    documents = [ids for _, ids in READERS["memmap"](tmp_path / "to")]
    with_text = [row for row in stored(dataset) if row[1] is not None]
    found = [codes_FK for ids in documents for codes_FK in export.ids.codes_of(ids)]
    assert [len(export.ids.codes_of(ids)) for ids in documents] == [2, 2, 2]
    [record] = (tmp_path / "to" / "done").iterdir()
    assert json.loads(record.read_text())["frames"] == sum(len(row[2]) for row in with_text)
    for codes_FK, (_, _, wanted_FK) in zip(found, with_text, strict=True):
        np.testing.assert_array_equal(codes_FK, wanted_FK)


@pytest.mark.parametrize("format", FORMATS)
def test_no_key_writes_out_of_the_output_and_no_file_knows_the_time(tmp_path, format, monkeypatch):
    dataset = odd_dataset(str(tmp_path / "tokens"))
    output = tmp_path / "deep" / "er" / "to"
    run(dataset, output, options(format))
    files = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == files.keys() | {
        path for path in (tmp_path / "tokens").rglob("*") if path.is_file()
    }
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in files)
    shutil.rmtree(output)
    monkeypatch.setattr("time.time", lambda: 1e9)
    run(dataset, output, options(format))
    assert {path: path.read_bytes() for path in files} == files


def test_a_record_that_names_files_of_other_folders_deletes_nothing(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"), {"in/a.tar": ["a"]})
    run(dataset, tmp_path / "to", options("memmap"))
    [record] = (tmp_path / "to" / "done").iterdir()
    facts = json.loads(record.read_text())
    record.write_text(json.dumps(facts | {"source": "", "files": ["../../tokens/dataset.json"]}))
    with pytest.raises(InputError, match="delete it, and its part is written again"):
        run(dataset, tmp_path / "to", options("memmap"))
    assert (tmp_path / "tokens" / "dataset.json").exists()


def test_a_file_that_was_deleted_is_written_again(tmp_path):
    dataset = odd_dataset(str(tmp_path / "tokens"))
    run(dataset, tmp_path / "to", options("memmap"))
    first = min((tmp_path / "to" / "data").iterdir())
    data = first.read_bytes()
    first.unlink()
    assert len(run(dataset, tmp_path / "to", options("memmap"))) == 1
    assert first.read_bytes() == data


def test_a_first_id_is_a_number_from_0_up():
    with pytest.raises(InputError, match="first-id is -3; give a number from 0 up"):
        PatternIds(make_pattern("flatten", SIZES), first_id=-3)


@pytest.mark.parametrize("format", ["megatron", "lhotse"])
def test_a_pattern_that_a_format_cannot_hold_is_refused_with_one_that_it_can(format):
    with pytest.raises(InputError, match=f"{format} holds .*pattern"):
        Export(format, PatternIds(make_pattern("delay", SIZES)), len(SIZES))
