"""`plan`, `report`, `decode` and `export` as users type them; their files are read back."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console
from typer.testing import CliRunner, Result

from speechmill.codecs import load_codec
from speechmill.jobs.cli import app
from speechmill.jobs.display import Display, ShardDisplay, facts_table
from speechmill.pipeline.dataset.export.ids import ids_from
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import clip
from tests.jobs.datasets import make_dataset
from tests.one_shard import tokenize_one


@pytest.fixture
def dataset(tmp_path) -> TokenDataset:
    return make_dataset(tmp_path)


def speechmill(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_folder(dataset: TokenDataset):
    """The name of its only run."""
    [url] = [i.url for i in dataset.storage.list_files(f"{dataset.root}/runs") if "yaml" in i.url]
    return url.rpartition("/")[0]


def test_brackets_in_names_and_messages_are_printed_as_they_are(dataset):
    [shard, *_] = list_shards([f"{dataset.root}/../in"], dataset.storage)
    record = {
        "shard": "[bold].tar",
        "error": "ShardCut",
        "message": "[/bold] is cut",
        "attempts": 1,
    }
    dataset.mark_failed(shard, record)
    found = speechmill("status", dataset.root)
    assert "failed  [bold].tar: ShardCut: [/bold] is cut" in found.stdout
    Display(Console(file=(sink := io.StringIO()))).line("[bold].tar [/bold]")
    assert sink.getvalue() == "[bold].tar [/bold]\n"


def test_data_is_printed_without_markup_emoji_and_control_characters(dataset):
    [shard, *_] = list_shards([f"{dataset.root}/../in"], dataset.storage)
    odd = "[/x] :smile: \x1b[2J\n\u202e\udcf1"
    dataset.mark_failed(shard, {"shard": odd, "error": odd, "message": odd, "attempts": 1})
    plain = "[/x] :smile: \\x1b[2J\\n\\u202e\\udcf1"
    assert speechmill("status", dataset.root).stdout.count(plain) == 3
    assert plain in speechmill("verify", dataset.root).stdout
    display = ShardDisplay(Console(file=(sink := io.StringIO()), force_terminal=True, width=200))
    with display.bar(odd, 1):
        display.advance(odd, 0, 1, odd, "")
    display.table(facts_table({odd: odd}))
    assert sink.getvalue().count(plain) > 3


def test_a_plan_says_what_is_left_and_writes_nothing(tmp_path, dataset):
    (part, *_) = sorted(dataset.parts())
    dataset.storage.delete(dataset.part_url(part))
    config = f"{run_folder(dataset)}/config.yaml"
    before = dataset.storage.list_files(str(tmp_path))
    [found] = json.loads(speechmill("plan", config, "--probe", "0", "--json").stdout)
    assert (found["shards"], found["todo"], found["is_new"]) == (2, 1, False)
    assert found["todo_hours"] == pytest.approx(4 * 0.4 / 3600, rel=0.5)
    assert dataset.storage.list_files(str(tmp_path)) == before


def test_a_plan_without_a_probe_knows_no_hours_and_one_for_another_codec_is_refused(dataset):
    config = f"{run_folder(dataset)}/config.yaml"
    fresh = speechmill("plan", config, f"output={dataset.root}-new", "--probe", "0")
    assert (fresh.exit_code, "not known before the first part" in fresh.output) == (0, True)
    other = speechmill("plan", config, "codec.name=pure-16k-small")
    assert (other.exit_code, "set another output" in other.stderr) == (2, True)


def test_the_report_of_a_run_shows_it_on_one_page_and_escapes_every_text(tmp_path, dataset):
    events = f"{run_folder(dataset)}/events.jsonl"
    lines = dataset.storage.read_bytes(events).decode().splitlines()
    retry = {"event": "retry", "attempts": 1, "shard": "<b>.tar", "error": "E", "message": "m"}
    lines.insert(1, json.dumps({"time": json.loads(lines[0])["time"], **retry}))
    dataset.storage.put(events, "\n".join(lines).encode())
    done = speechmill("report", dataset.root, "--run", run_folder(dataset).rpartition("/")[2])
    page = dataset.storage.read_bytes(done.stdout.strip()).decode()
    assert '<th scope="row">shards</th><td>2 done</td>' in page
    assert '<th scope="row">utterances</th><td>8</td>' in page
    assert "retry, attempt 1: &lt;b&gt;.tar" in page
    assert "<svg" in page
    assert "num_gpus" in page


def test_the_configuration_in_a_dataset_cannot_read_the_environment(tmp_path, dataset):
    config = f"{run_folder(dataset)}/config.yaml"
    text = dataset.storage.read_bytes(config).decode().replace("'null'", "${oc.env:HOME}")
    dataset.storage.put(config, text.encode())
    assert speechmill("decode", dataset.root, tmp_path / "audio").exit_code == 0
    identity = json.loads(dataset.storage.read_bytes(f"{dataset.root}/dataset.json"))
    for name in ("codec", "precision", "member"):
        changed = json.dumps(identity | {name: "${oc.env:HOME}"}).encode()
        dataset.storage.put(f"{dataset.root}/dataset.json", changed)
        done = speechmill("decode", dataset.root, tmp_path / "audio")
        assert (done.exit_code, "${oc.env:HOME}" in done.stderr) == (2, True)


DAMAGE = {"dataset.json": b"[[", "part": b"PAR1", "summary.json": b"[1]"}


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("status", ["dataset.json", "summary.json", "part"]),
        ("report", ["dataset.json"]),
        ("decode", ["dataset.json", "part"]),
        ("export", ["dataset.json", "part"]),
    ],
)
def test_a_damaged_dataset_is_refused_in_one_line(tmp_path, dataset, command, files):
    target = [tmp_path / "to"] if command in ("decode", "export") else []
    folders = {"dataset.json": dataset.root, "part": dataset.part_url(min(dataset.parts()))}
    for name in files:
        url = folders.get(name, run_folder(dataset))
        url = url if name == "part" else f"{url}/{name}"
        whole = dataset.storage.read_bytes(url)
        dataset.storage.put(url, DAMAGE[name])
        done = speechmill(command, dataset.root, *target)
        dataset.storage.put(url, whole)
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert "is damaged" in done.stderr


def test_decoded_audio_equals_that_of_the_codec_and_has_the_length_of_the_source(tmp_path, dataset):
    assert speechmill("decode", dataset.root, tmp_path / "audio").exit_code == 0
    codec = load_codec("null")
    table = pq.read_table(f"{dataset.root}/tokens")
    files = {path.stem: path for path in (tmp_path / "audio").rglob("*.flac")}
    assert files.keys() == set(table["key"].to_pylist())
    for row in table.to_pylist():
        audio_T, rate = soundfile.read(files[row["key"]], dtype="float32")
        assert (rate, len(audio_T)) == (16_000, round(row["duration"] * 16_000))
        codes = np.array(row["codes"]).reshape(1, row["num_frames"], row["num_codebooks"])
        alone_BT = codec.decode(*tensors(codes))
        np.testing.assert_allclose(audio_T, alone_BT[0, : len(audio_T)], atol=2**-15)


def tensors(codes_BFK: np.ndarray):
    import torch

    codes_BKF = torch.from_numpy(codes_BFK).transpose(1, 2)
    return codes_BKF, torch.tensor([codes_BFK.shape[1]])


def test_decoded_shards_can_be_tokenized_again_and_resume(tmp_path, dataset):
    arguments = ("decode", dataset.root, tmp_path / "audio", "--shards", "--codebooks", "2")
    assert speechmill(*arguments).exit_code == 0
    shards = list_shards([str(tmp_path / "audio")], Storage())
    reports = [tokenize_one(s, f"{tmp_path}/again", Storage(), load_codec("null")) for s in shards]
    assert [report.rows for report in reports] == [4, 4]
    assert "utterances" not in speechmill(*arguments).stdout


def test_decode_stops_at_its_limit(tmp_path, dataset):
    assert speechmill("decode", dataset.root, tmp_path / "audio", "--limit", "5").exit_code == 0
    assert len(list((tmp_path / "audio").rglob("*.flac"))) == 5


def test_a_limit_that_would_shorten_a_tar_is_refused(tmp_path, dataset):
    done = speechmill("decode", dataset.root, tmp_path / "audio", "--limit", "5", "--shards")
    assert (done.exit_code, "without its last clips" in done.stderr) == (2, True)
    assert not (tmp_path / "audio").exists()


def test_tars_at_the_output_do_not_stand_for_files(tmp_path, dataset):
    assert speechmill("decode", dataset.root, tmp_path / "audio", "--shards").exit_code == 0
    assert speechmill("decode", dataset.root, tmp_path / "audio").exit_code == 0
    assert len(list((tmp_path / "audio").rglob("*.flac"))) == 8


def test_an_export_takes_its_pattern_from_the_command_line(tmp_path, dataset):
    arguments = ("--pattern", "delay", "--codebooks", "3", "--shifts", "0,2,2")
    done = speechmill("export", dataset.root, tmp_path / "lm", *arguments)
    assert done.exit_code == 0, done.output
    assert "2 parts of 8 documents" in done.output
    rows = pq.read_table(tmp_path / "lm" / "data").to_pylist()
    assert {len(row["codes_2"]) - row["num_frames"] for row in rows} == {2}
    assert {tuple(row["codes_1"][:2]) for row in rows} == {(1024, 1024)}
    stated = json.loads((tmp_path / "lm" / "export.json").read_text())
    assert stated["ids"]["pattern"]["shifts"] == [0, 2, 2]


def test_an_export_takes_a_template_and_a_condition_from_the_command_line(tmp_path, dataset):
    done = speechmill(
        *("export", dataset.root, tmp_path / "lm", "--format", "memmap", "--where", "index < 2"),
        *("--template", "before", "--tokenizer", "bytes", "--text-size", "1000"),
    )
    assert done.exit_code == 0, done.output
    assert "2 parts of 4 documents" in done.output
    ids = ids_from(json.loads((tmp_path / "lm" / "export.json").read_text()))
    documents = np.load(min((tmp_path / "lm" / "data").glob("*.ids.npy")))
    assert ids.template.texts_of(documents) == ["clip 0", "clip 1"]
    assert ids.template.vocabulary.first_code == 1006


def test_a_compacted_dataset_is_exported_as_its_parts_are(tmp_path, dataset):
    assert speechmill("compact", dataset.root, tmp_path / "few").exit_code == 0
    for root, output in ((dataset.root, "parts"), (tmp_path / "few", "one")):
        done = speechmill("export", root, tmp_path / output, "--format", "memmap", "--flat")
        assert done.exit_code == 0, done.output
    found = [
        np.concatenate([np.load(path) for path in sorted((tmp_path / name).rglob("*.ids.npy"))])
        for name in ("parts", "one")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            ("--format", "tfrecord"),
            ("--format", "lhotse", "--pattern", "delay"),
            ("--shifts", "a"),
        ),
        *(("--pattern", "zigzag"), ("--pattern", "delay", "--shifts", "1"), ("--codebooks", "9")),
        *(("--coarse", "2"), ("--first-id", "5"), ("--template", "after", "--first-id", "5")),
        *(("--tokenizer", "bytes"), ("--template", "x"), ("--where", "durration > 1")),
        ("--template", "after", "--tokenizer", "none.json"),
    ],
    ids=" ".join,
)
def test_an_impossible_export_is_refused_in_one_line_and_writes_nothing(tmp_path, dataset, wrong):
    done = speechmill("export", dataset.root, tmp_path / "lm", *wrong)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert not (tmp_path / "lm").exists()


@pytest.mark.parametrize("command", ["status", "verify", "report", "decode", "export"])
def test_an_override_that_is_not_a_key_of_tokenize_is_refused(tmp_path, dataset, command):
    target = [tmp_path / "out2"] if command in ("decode", "export") else []
    wrong = speechmill(command, dataset.root, *target, "stroage.s3.key=x")
    assert (wrong.exit_code, "did you mean storage?" in wrong.stderr) == (2, True)
    settings = ("storage={s3: {key: x}}", "storage_patience=1", "workers.count=0")
    right = speechmill(command, dataset.root, *target, *settings)
    assert right.exit_code == 0, right.output


@pytest.mark.parametrize("name", ["2024_01", "01", "a #b", "ä: b, [c]", "null"])
def test_pack_takes_any_name_of_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.flac").write_bytes(clip())
    done = speechmill("pack", name, f"{name} out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / f"{name} out" / "shard-000000.tar").exists()


def test_examples_are_copied_to_a_folder_of_the_home_and_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("not a folder")
    done = speechmill("examples", "~/examples")
    assert done.output.splitlines() == [f"{tmp_path}/examples/{n}" for n in ("configs", "samples")]
    assert (tmp_path / "examples" / "configs" / "tokenize" / "demo.yaml").is_file()
    refused = speechmill("examples", "~/file/examples")
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert f"cannot copy the examples to {tmp_path}/file/examples" in refused.output


def test_threads_of_arrow_let_go_of_files_before_a_command_ends():
    """One that needs Python after that aborts the process; a daemon thread stands for it."""
    code = (
        "import threading, time, pyarrow\n"
        "from speechmill.jobs import cli\n"
        "cli._ARROW_SECONDS = 5.0\n"
        "def let_go(): time.sleep(0.02); print('let go')\n"
        "cli.app = lambda **_: threading.Thread(target=let_go, daemon=True).start()\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "let go\n"
