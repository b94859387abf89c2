"""What strangers write opens no door: real commands, a server that listens, a secret to be stolen.

Each test gives a command the data of an attacker. Then no request has come to the server, and
neither the output of the command nor a file that it wrote holds the secret.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from speechmill.jobs.cli import app
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import clip, tar_bytes, write_corpus
from tests.http_server import QuietHandler, serving
from tests.jobs.datasets import make_dataset

SECRET = "wJalrXUtnFEMI-planted"
Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server of the attacker; a request to it fails the test."""
    requests: list[str] = []

    class Recorder(QuietHandler):
        def answer(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD = do_PUT = do_POST = answer

    with serving(Recorder) as url:
        yield url
    assert requests == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A private folder beside the one that the commands are given."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "id_ed25519").write_text(SECRET)
    (tmp_path / "private" / "call.flac").write_bytes(SECRET.encode())
    return tmp_path


@pytest.fixture
def speechmill(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    outputs: list[str] = []

    def run(*arguments: object) -> Result:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        outputs.append(done.output)
        return done

    yield run
    assert not any(SECRET in output for output in outputs)
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    mine = [path for path in files if path.is_relative_to(home / "private")]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == mine


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "tokenize.yaml"
    path.write_text(
        f"shards: ['{home}/corpus/list.txt']\noutput: '{home}/out'\ncodec: {{name: 'null'}}\n"
        "workers: {num_gpus: 0, count: 0}\n"
    )
    write_corpus(home / "corpus", num_shards=1, clips_per_shard=2, seconds=0.3)
    return path


def rewritten(dataset: TokenDataset, **changes: Any) -> str:
    """Change columns of the first part, or `source` of its footer; returns its name."""
    name = sorted(dataset.parts())[0]
    table = pq.read_table(io.BytesIO(dataset.storage.read_bytes(dataset.part_url(name))))
    footer = json.loads(table.schema.metadata[b"speechmill"])
    footer["source"] |= changes.pop("source", {})
    for column, values in changes.items():
        field = table.schema.field(column)
        place = table.schema.get_field_index(column)
        table = table.set_column(place, field, pa.array(values, type=field.type))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"speechmill": json.dumps(footer)}), sink)
    dataset.storage.put(dataset.part_url(name), sink.getvalue())
    return name


# E1: a URL from data chooses neither a protocol nor a host.

HOSTILE = [
    "reference://x.tar::SERVER/spec.json",
    "SERVER/x.tar",
    "simplecache::SERVER/x.tar",
    "zip://x.tar::SERVER/x.zip",
    "file://x.tar::SERVER/x.tar",
    "{reference,zip}://x.tar::SERVER/spec.json",
    "{h,}ttp:{/,}/{127.0.0.1:PORT,}/x.tar",
    "SERVER/list.txt",
    "az://data@evil/x.tar",
    "memory://x.tar",
    "local:///etc/x.tar",
    "ftp://127.0.0.1:PORT/x.tar",
    "s3://a/x.tar::SERVER/x.tar",
]


def of(url: str, server: str) -> str:
    return url.replace("SERVER", server).replace("PORT", server.rpartition(":")[2])


@pytest.mark.parametrize("line", HOSTILE)
def test_a_line_of_an_index_reaches_no_host(speechmill: Run, config, home, server, line):
    (home / "corpus" / "list.txt").write_text(f"shard-0000.tar\n{of(line, server)}\n")
    done = speechmill("plan", config)
    assert (done.exit_code, "list.txt, line 2" in done.stderr) == (2, True)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--keys"], ["--reencode", "9", "codec.device=cpu"]])
@pytest.mark.parametrize("url", ["SERVER/x.tar", "reference://x.tar::SERVER/spec.json"])
def test_the_footer_of_a_published_dataset_reaches_no_host(
    speechmill: Run, home, server, url, options
):
    dataset = make_dataset(home)
    rewritten(dataset, source={"url": of(url, server)})
    for source in ([], ["--source", f"{home}/in"], ["--source", "s3://nobody/"]):
        assert speechmill("verify", dataset.root, *options, *source).exit_code == 1


def test_tars_of_a_footer_are_read_only_below_the_sources_of_the_command_line(
    speechmill: Run, home
):
    (home / "private" / "call.tar").write_bytes(tar_bytes([(f"{SECRET}.flac", clip(0.1))]))
    [private] = list_shards([f"{home}/private/call.tar"], Storage())
    dataset = make_dataset(home)
    for url in (private.url, f"{home}/in/../private/call.tar", f"file://{private.url}"):
        source = {"url": url, "size": private.size, "etag": private.etag}
        rewritten(dataset, source=source)
        speechmill("verify", dataset.root, "--source", f"{home}/in", "--keys", "--reencode", "9")


# E2: the configuration in a dataset runs nothing.

STEALING = {
    "environment": ('codec: {checkpoint: "/\\x24{oc.env:AWS_SECRET_ACCESS_KEY}"}', ""),
    "a host": ("codec: {checkpoint: 'SERVER/w.safetensors'}", ""),
    "a module": ("filters: {quality: 'stealing:score'}", ""),
    "an object": ("codec: !!python/object/apply:os.system ['touch RAN']", ""),
    "a file": ("codec: {config: 'HOME/private/id_ed25519'}", ""),
}


@pytest.mark.parametrize("text", [text for text, _ in STEALING.values()], ids=STEALING)
def test_the_configuration_of_a_dataset_runs_nothing(
    speechmill: Run, home, server, monkeypatch, text
):
    (home / "stealing.py").write_text(
        f"from pathlib import Path\nPath('{home}/RAN').touch()\ndef score(*_): return 1.0\n"
    )
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.chdir(home)
    dataset = make_dataset(home)
    [config] = Path(dataset.root).glob("runs/*/config.yaml")
    config.write_text(of(text.replace("HOME", str(home)), server))
    assert speechmill("decode", dataset.root, home / "audio").exit_code == 0
    speechmill("verify", dataset.root, "--reencode", "2", "--source", home / "in")
    assert not (home / "RAN").exists()


# E3: a key is a name below the output.

KEYS = ["../../../private/id_ed25519", "HOME/private/call", "a\0b", "x" * 300, "/etc/x", "a/../b"]


@pytest.mark.parametrize(
    "command",
    [
        ["decode"],
        ["decode", "--shards"],
        ["export", "--format", "webdataset"],
        ["export", "--format", "lhotse"],
    ],
    ids=" ".join,
)
def test_a_key_writes_only_below_the_output(speechmill: Run, home, command):
    dataset = make_dataset(home)
    for keys in (KEYS[:4], [*KEYS[4:], "ok", "ok"]):
        rewritten(dataset, key=[key.replace("HOME", str(home)) for key in keys])
        before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
        output = home / f"o-{keys[-1][:2]}" / "deep" / "er"
        done = speechmill(command[0], dataset.root, output, *command[1:])
        assert done.exit_code == 0, done.output
        new = [path for path in home.rglob("*") if path not in before]
        assert [path for path in new if not path.is_relative_to(output.parents[1])] == []
        assert all(path.stat().st_mtime_ns == before[path] for path in before if path.is_file())
        written = [path for path in new if path.suffix == ".flac"]
        for path in output.rglob("*.tar"):
            with tarfile.open(path) as tar:
                members = [name for name in tar.getnames() if name.endswith((".flac", ".npy"))]
            assert not any(name.startswith("/") or ".." in name.split("/") for name in members)
            written += members
        assert len(written) == 8


# E4: pack takes nothing from outside of its source.


def test_pack_takes_no_link_out_of_its_folder(speechmill: Run, home):
    source = home / "speech"
    source.mkdir()
    (source / "a.flac").write_bytes(clip(0.1))
    (source / "a.txt").symlink_to("../private/id_ed25519")
    (source / "b.flac").symlink_to(home / "private" / "call.flac")
    (source / "more").symlink_to("../private")
    (source / "gone.flac").symlink_to("nowhere.flac")
    (source / "round").symlink_to(".")
    done = speechmill("pack", source, home / "shards")
    assert done.exit_code == 0, done.output
    for name in ("a.txt", "b.flac", "more", "gone.flac", "round"):
        assert f"speech/{name}" in done.output


@pytest.mark.parametrize("path", ["../private/call.flac", "HOME/private/call.flac", "in.flac"])
def test_a_manifest_names_only_files_below_its_folder(speechmill: Run, home, path):
    source = home / "speech"
    source.mkdir()
    (source / "in.flac").symlink_to("../private/call.flac")
    row = {"path": path.replace("HOME", str(home))}
    (source / "rows.jsonl").write_text(json.dumps(row))
    done = speechmill("pack", source / "rows.jsonl", home / "shards")
    assert (done.exit_code, "rows.jsonl, line 1" in done.stderr) == (2, True)


@pytest.mark.parametrize("url", HOSTILE)
def test_a_manifest_reaches_no_host(speechmill: Run, home, server, url):
    (home / "rows.csv").write_text(f'path\n"{of(url, server).replace(".tar", ".flac")}"\n')
    done = speechmill("pack", home / "rows.csv", home / "shards")
    assert (done.exit_code, "rows.csv, line 2" in done.stderr) == (2, True)
