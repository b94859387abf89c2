"""`speechmill report` as users type it, over whole, killed and damaged datasets."""

import html
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechmill.jobs.report import parts as counting
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.storage import Storage
from tests.corpus import write_corpus
from tests.jobs.conftest import invoke
from tests.jobs.datasets import make_dataset
from tests.jobs.report.history import make_history


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with tars in `in` and their dataset in `out`."""
    folder = tmp_path_factory.mktemp("made")
    make_history(folder)
    return folder


@pytest.fixture
def history(made, tmp_path) -> TokenDataset:
    """A copy of the dataset, for tests that change it."""
    shutil.copytree(made / "out", tmp_path / "out")
    return TokenDataset(str(tmp_path / "out"), Storage())


@pytest.fixture
def source(made) -> tuple[str, str]:
    return "--source", str(made / "in")


def page_of(dataset, *options: object, audio: int = 0) -> str:
    done = invoke("report", dataset.root, "--audio", audio, *options)
    assert done.exit_code == 0, done.output
    return Path(done.output.split()[-1]).read_text()


def visible(page: str) -> str:
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def killed_run(dataset) -> Path:
    """The folder of the run that was killed."""
    folders = Path(dataset.root).glob("runs/*")
    return next(folder for folder in folders if not (folder / "summary.json").exists())


def test_a_page_has_the_numbers_of_all_runs_and_parts(history, source):
    page = page_of(history, *source, audio=12)
    text = visible(page)
    assert "utterances 10" in text
    assert "shards done 3 1 failed" in text
    assert "Shards: 3 done, 1 failed, 2 left" in text
    assert "rejects 1 9.1 % of samples" in text
    for stage in ("read", "encode", "write"):
        assert re.search(rf'<th scope="row">{stage}</th>', page), stage
    assert "From 10 rows in 3 row groups of 3 parts, 100 % of the utterances." in text
    assert page.count("data:audio/flac") == page.count("data:image/png") == 2 * 10
    assert len(page) < 5e6


def test_a_killed_run_is_told_and_a_finished_one_is_done(history, tmp_path):
    assert "The newest run did not end: it was killed, or is still running" in visible(
        page_of(history)
    )
    whole = visible(page_of(make_dataset(tmp_path / "whole")))
    assert "All shards are done." in whole
    assert "Some of what follows is incomplete" not in whole


def test_shards_whose_parts_were_deleted_are_left(tmp_path):
    dataset = make_dataset(tmp_path)
    names = sorted(dataset.parts())
    dataset.storage.delete(dataset.part_url(names[0]))
    text = visible(page_of(dataset))
    assert "Not all shards are done: 1 left." in text
    assert f"Shards: {len(names) - 1} done, 1 left" in text
    for name in names[1:]:
        dataset.storage.delete(dataset.part_url(name))
    text = visible(page_of(dataset))
    assert f"Not all shards are done: {len(names)} left." in text
    assert "devices" not in text


def test_the_same_seed_gives_the_same_page_and_audio_can_be_left_out(history):
    first, again = (page_of(history, "--seed", "7", audio=3) for _ in range(2))
    timeless = [re.sub(r"\d\d \w{3} \d{4}, \d\d:\d\d", "", page) for page in (first, again)]
    assert timeless[0] == timeless[1]
    assert first.count("data:audio/flac") == 3
    silent = page_of(history)
    assert "data:audio" not in silent
    assert "Listen" not in silent


def test_no_tar_is_read_that_does_not_lie_below_a_source(history, tmp_path):
    text = visible(page_of(history, "--source", tmp_path / "elsewhere", audio=2))
    assert text.count("is not below --source") == 2


def test_a_recording_that_was_replaced_is_not_shown_as_the_original(tmp_path):
    history = make_history(tmp_path)
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=4, seconds=0.5)
    text = visible(page_of(history, "--source", tmp_path / "in", audio=12))
    assert text.count("no original: the tar does not hold this recording any more") == 8


def test_a_codec_that_cannot_be_loaded_costs_only_its_reconstructions(history, source):
    path = Path(history.root) / "dataset.json"
    path.write_text(path.read_text().replace('"revision": "', '"revision": "0'))
    page = page_of(history, *source, audio=2)
    assert "There are no reconstructions, because the codec is not loaded" in visible(page)
    assert "All shards" not in visible(page)


def test_rejects_have_their_meaning_a_message_and_their_place(history):
    text = visible(page_of(history))
    assert "UndecodableAudio 1, 9.1 % of all samples The audio cannot be decoded." in text
    assert re.search(r"broken<i>\.flac .* sample 2 of .*shard-9999\.tar, decode", text)


def test_texts_of_strangers_cannot_become_markup(history, source):
    page = page_of(history, *source, audio=12)
    assert not re.search(r"<script|<img src=x|<i>|\u202e|\x1b|\x00", page)
    assert "\\u202e\\x1b[2J" in page
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:|runs/)[^"]*', page)


DAMAGE = {
    "runs/*/events.jsonl": [
        b"[]\n{}\nnull\n\xff\xfe\n" + b"[" * 10_000,
        b'{"event": "committed", "time": "2026-01-01", "shard": 7, "rows": 1}',
        b'{"event": "run started", "time": "0001-01-01T00:00:00+14:00", "shards": 1e999}',
        b'{"event": "committed", "time": "9999-12-31T23:59:59.999999", "shard": "x", "rows": 1,'
        b' "audio_seconds": 9e14, "encode_seconds": 9e14, "decode_seconds": 1}',
    ],
    "runs/*/summary.json": [b"[1]", b'{"status": []}', b'{"status": "done", "bottleneck": {}}'],
    "runs/*/config.yaml": [b"\x00\xff", b"a: &a [*a]"],
    "failed/x.json": [b"[]", b"{", b'{"shard": [], "error": {}, "message": 3}'],
    "tokens/*.parquet": [b"", b"PAR1", b"PAR1" + b"\xff" * 60 + b"\xff\xff\xff\x7fPAR1"],
    "rejects/*.parquet": [b"PAR1", b"no table"],
}


@pytest.mark.parametrize("pattern", DAMAGE)
def test_a_damaged_file_costs_a_line_on_the_page(history, pattern):
    paths = sorted(Path(history.root).glob(pattern))
    for data in DAMAGE[pattern]:
        for path in paths:
            path.write_bytes(data)
        text = visible(page_of(history, audio=1))
        assert "utterances" in text
        assert "Traceback" not in text


def test_each_damaged_file_is_named(history):
    root = Path(history.root)
    for path in root.glob("runs/*/events.jsonl"):
        path.write_text("{}\n[]\n" + path.read_text())
    min(root.glob("tokens/*.parquet")).write_bytes(b"PAR1")
    text = visible(page_of(history))
    assert text.count("events.jsonl: 2 damaged lines, first line 1") == 2
    assert text.count(".parquet is not counted: ") == text.count(".parquet is not sampled: ") == 1


def test_counts_that_no_footer_gives_are_not_shown_as_zero(history):
    for part in Path(history.root).glob("tokens/*.parquet"):
        part.write_bytes(b"PAR1")
    text = visible(page_of(history))
    for name in ("audio", "utterances", "tokens", "rejects"):
        assert re.search(rf"{name}\s*\?\s*no footer can be read", text), name


def rewritten(part: Path, table: pa.Table, **footer: object) -> None:
    """Write a part again, with other rows or another footer."""
    old = pq.read_schema(part).metadata
    new = json.dumps(json.loads(old[b"speechmill"]) | footer).encode()
    pq.write_table(table.replace_schema_metadata({b"speechmill": new}), part)


def test_a_part_of_another_dataset_is_not_counted(history):
    part = min(Path(history.root).glob("tokens/*.parquet"))
    rewritten(part, pq.read_table(part), precision="bf16")
    text = visible(page_of(history))
    assert "is not counted: precision is 'bf16', dataset.json says 'fp32'" in text


def test_codes_beyond_their_codebook_are_not_counted(history):
    part = min(Path(history.root).glob("tokens/*.parquet"))
    table = pq.read_table(part)
    codes = pa.array(
        [[9999] * len(row) for row in table["codes"].to_pylist()], pa.list_(pa.uint16())
    )
    place = table.schema.get_field_index("codes")
    rewritten(part, table.set_column(place, "codes", codes))
    assert "code 9999 of codebook 0, which has" in visible(page_of(history))


def test_columns_of_other_types_cost_a_line(history):
    part = min(Path(history.root).glob("tokens/*.parquet"))
    whole = part.read_bytes()
    table = pq.read_table(part)
    for name in table.column_names:
        place = table.schema.get_field_index(name)
        odd = pa.array([{"a": [1, None]}] * len(table))
        rewritten(part, table.set_column(place, name, odd))
        text = visible(page_of(history, audio=12))
        assert "utterances 10" in text
        needed = name not in ("num_codebooks", "num_channels", "metadata")
        assert (f"tokens/{part.name}" in text) == needed, name
        part.write_bytes(whole)


def test_a_compacted_dataset_has_no_shards_to_do(history):
    path = Path(history.root) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"compacted": {"source": "x"}}))
    text = visible(page_of(history))
    assert "A compacted dataset" in text
    assert "files 3 compacted" in text
    assert "in no log" not in text.lower()


def test_a_large_dataset_is_estimated_from_a_sample_and_says_so(history, monkeypatch):
    monkeypatch.setattr(counting, "MOST_FOOTERS", 2)
    text = visible(page_of(history))
    assert re.search(r"audio ≈ [\d.]+ s ± [\d.]+ %, from 2 of 3 footers", text)


def test_the_page_of_a_run_has_its_numbers_and_its_damage(history):
    killed = killed_run(history)
    with (killed / "events.jsonl").open("a") as log:
        log.write("[]\n")
    text = visible(page_of(history, "--run", killed.name))
    assert f"Run {killed.name}: did not end" in text
    assert "shards 1 done" in text
    assert "events.jsonl: 1 damaged line, first line" in text
    assert "retry, attempt 1" in text
    missing = invoke("report", history.root, "--run", "nope")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)


def test_a_page_is_written_where_html_says_without_links_to_runs(history, tmp_path):
    page = page_of(history)
    assert re.search(r'href="runs/[\w-]+/report\.html"', page_of(history)) is None
    invoke("report", history.root, "--run", killed_run(history).name)
    assert re.search(r'href="runs/[\w-]+/report\.html"', page_of(history))
    other = page_of(history, "--html", tmp_path / "deep" / "page.html")
    assert 'href="runs/' not in other
    assert (tmp_path / "deep" / "page.html").is_file()
    assert len(page) < 200_000


@pytest.mark.parametrize("options", [("--audio", "-1"), ("--html", "{root}/tokens")])
def test_an_impossible_page_is_refused_in_one_line(history, options):
    done = invoke("report", history.root, *(option.format(root=history.root) for option in options))
    assert (done.exit_code in (1, 2), done.stderr.count("\n")) == (True, 1), done.output


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    done = invoke("report", tmp_path)
    assert (done.exit_code, "dataset.json is missing" in done.stderr) == (2, True)


def test_a_dataset_with_a_page_is_still_a_dataset(tmp_path):
    dataset = make_dataset(tmp_path)
    page_of(dataset)
    assert invoke("verify", dataset.root).exit_code == 0
    assert json.loads(invoke("status", dataset.root, "--json").output)["rows"] == 8
