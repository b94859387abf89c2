"""No secret of a run is in anything that it leaves, shows or hands to Ray."""

import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from omegaconf import OmegaConf
from rich.console import Console

from speechmill.jobs.commands.plan.forecast import Prices
from speechmill.jobs.commands.plan.plan import plan_run
from speechmill.jobs.commands.plan.probe import ProbeSize
from speechmill.jobs.commands.plan.table import print_plan
from speechmill.jobs.commands.report import report_dataset
from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.commands.verify import VerifyOptions, print_verification, verify_dataset
from speechmill.jobs.config import for_each_codec, from_overrides, to_yaml
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.jobs.report.dataset_page import PageOptions
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.jobs.training.checkpoints import run_identity
from speechmill.pipeline.errors import InputError, StorageError
from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.run import ray_address, ray_local
from speechmill.pipeline.run.job import RaySettings
from speechmill.pipeline.run.ray_cluster import connected, set_environment
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import write_corpus
from tests.ray_processes import command_line, listening_addresses, local_processes, token_of
from tests.signed_server import serve

MARK = "hush-"  # is in every secret below
QUERY = "X-Amz-Expires=600&X-Amz-Signature=hush-signature"
HEADERS = {"X-Team": "hush-header", "Cookie": "id=hush-cookie"}
STORE = {
    "http": {"client_kwargs": {"headers": HEADERS}},
    "https": {"client_kwargs": {"headers": {"Authorization": "Bearer hush-bearer"}}},
    "s3": {"key": "hush-key", "secret": "${oc.env:STORE_SECRET}", "profile": "hush-name"},
    "abfs": {"sas": "hush-sas", "conn_str": "AccountKey=hush-account", "account_name": "corpora"},
    "sftp": {"auth": ["user", "hush-auth"], "pat": "hush-pat", "pin": "hush-pin"},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Two tars behind signatures; reading the second one is an error that names its URL."""
    good, broken = write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=2, seconds=0.3)
    broken.rename(broken.with_name("broken.tar"))
    good.rename(good.with_name("good.tar"))
    with serve(tmp_path / "in", QUERY, HEADERS) as url:
        yield url


def run_config(server: str, output: Path, *overrides: str) -> TokenizeConfig:
    login = server.replace("://", "://user:hush-password@")
    shards = [f"{server}/good.tar?{QUERY}", f"{login}/broken.tar?{QUERY}"]
    settings = [
        f"shards={json.dumps(shards)}",
        f"output={output}",
        "codec.name=null",
        "workers.num_gpus=0",
        "workers.max_attempts=2",
        "ray.num_cpus=2",
        "ray.env={WEBHOOK: hush-webhook, AWS_SECRET_ACCESS_KEY: hush-aws}",
        f"storage={json.dumps(STORE)}",
    ]
    return from_overrides(TokenizeConfig, [*settings, *overrides])


def everything_in(folder: Path) -> str:
    """The text of all files of a folder, and the rows and footers of Parquet files."""
    texts = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            texts += [str(table.to_pylist()), str(table.schema.metadata)]
        elif path.is_file():
            texts.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(texts)


class Watch(ShardDisplay):
    """A display that looks at the local cluster of a run while a shard is done."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.listening: set[str] = set()
        self.tokens: set[str] = set()

    def event(self, *arguments: Any) -> None:
        super().event(*arguments)
        processes = local_processes()
        self.listening |= listening_addresses(processes)
        self.tokens |= {token_of(process) for process in processes[1:]} - {""}
        shown = " ".join(map(command_line, processes))
        assert not any(token in shown for token in self.tokens)
        if ray.is_initialized():
            for token in ("", "another"):
                with pytest.raises(InputError, match="the token is missing or wrong; set RAY_AUTH"):
                    ray_address.check_token(ray.get_runtime_context().gcs_address, token)


def test_no_secret_is_in_what_a_run_leaves_or_shows_and_it_listens_on_the_loopback_alone(
    tmp_path, server, monkeypatch, capfd, caplog
):
    monkeypatch.setenv("STORE_SECRET", "hush-secret")
    session = Path(tempfile.mkdtemp(prefix="sm-", dir="/tmp"))

    @contextmanager
    def kept_folder() -> Iterator[Path]:
        yield session

    monkeypatch.setattr(ray_local, "private_folder", kept_folder)
    shown = io.StringIO()
    console = Console(file=shown, markup=False)
    for name, count in (("ray", 1), ("here", 0)):
        config = run_config(server, tmp_path / name, f"workers.count={count}")
        watch = Watch(console)
        totals = tokenize_shards(config, watch)
        assert (totals.shards, totals.failed) == (1, 1)
        if count:
            [token] = watch.tokens
            assert watch.listening == {"127.0.0.1"}
        dataset = open_dataset(str(tmp_path / name), [])
        report_dataset(dataset.root, PageOptions(clips=0), [])
        print_plan(plan_run(config, ProbeSize.parse("0"), Prices(), print), console)
        print_verification(*verify_dataset(dataset.root, VerifyOptions(), []), console)
    left = (
        everything_in(session) + everything_in(tmp_path / "ray") + everything_in(tmp_path / "here")
    )
    shutil.rmtree(session)
    out, err = capfd.readouterr()
    everything = "\n".join((left, shown.getvalue(), out, err, caplog.text))
    assert "broken.tar" in everything
    assert "gcs_server" in everything
    found = sorted({line for line in everything.splitlines() if MARK in line})
    assert not found, [line[max(0, line.index(MARK) - 200) :][:400] for line in found]
    assert token not in everything


def test_a_tar_behind_a_signature_is_the_same_shard_with_every_signature(tmp_path, server):
    storage = Storage({"http": STORE["http"]})
    [shard] = list_shards([f"{server}/good.tar?{QUERY}"], storage)
    assert (shard.url, shard.stem) == (f"{server}/good.tar", "good")
    sent = pickle.loads(pickle.dumps(storage))
    assert sent.read_bytes(shard.url) == (tmp_path / "in" / "good.tar").read_bytes()
    assert sent.info(shard.url).etag == shard.etag
    with pytest.raises(StorageError):
        Storage().info(shard.url)
    with pytest.raises(InputError, match=r"good.tar twice, with another query"):
        list_shards([f"{server}/good.tar?a=1", f"{server}/good.tar?a=2"], storage)


def test_the_error_of_a_store_names_no_signature_also_not_in_its_traceback(server):
    storage = Storage({"http": STORE["http"]}, patience=0)
    with pytest.raises(StorageError, match=r"broken.tar: .*400") as caught:
        storage.read_bytes(f"{server}/broken.tar?{QUERY}")
    assert MARK not in "".join(traceback.format_exception(caught.value))


def test_what_reads_the_environment_is_written_as_it_was_typed(monkeypatch, tmp_path):
    for name, value in (("STORE", "hush-1"), ("TEAM", "hush-2"), ("COUNT", "0"), ("DISK", "/d")):
        monkeypatch.setenv(name, value)
    given = {
        "storage.s3.secret": "${oc.env:STORE,hush-default}",
        "storage.s3.key": "${ray.env.TEAM}",
        "storage.http.headers.Authorization": "Bearer ${oc.env:TEAM}",
        "ray.env.TEAM": "${oc.env:TEAM}",
        "workers.count": "${oc.env:COUNT}",
        "limits.seconds": "${batch.seconds}",
        "output": "${oc.env:DISK}/tokens",
        "shards": "['https://me:${oc.env:TEAM}@h/${oc.env:COUNT}.tar?sig=hush-3']",
        "codecs": "['null', {name: pure-16k-small, options: {hf_token: hush-4}}]",
    }
    config = from_overrides(TokenizeConfig, [f"{name}={value}" for name, value in given.items()])
    assert (config.workers.count, config.storage["s3"]["key"]) == (0, "hush-2")
    first, second = (OmegaConf.create(to_yaml(each)) for each in for_each_codec(config))
    written = OmegaConf.to_container(first)
    assert MARK not in to_yaml(config) + str(written) + str(OmegaConf.to_container(second))
    assert written["storage"] == {
        "s3": {"secret": "${oc.env:STORE}", "key": "***"},
        "http": {"headers": {"Authorization": "***${oc.env:TEAM}"}},
    }
    assert written["workers"]["count"] == "${oc.env:COUNT}"
    assert (written["limits"]["seconds"], written["output"]) == (
        config.batch.seconds,
        "${oc.env:DISK}/tokens/null",
    )
    assert written["shards"] == ["https://h/${oc.env:COUNT}.tar"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see 'https://me:hush-@h:9/x.tar?sig=hush-'.", "see 'https://h:9/x.tar'."),
        ("https://h/x?a=hush-: 403 Forbidden", "https://h/x: 403 Forbidden"),
        ("zip://x.tar::https://me:hush-@h/x.zip#hush-", "zip://x.tar::https://h/x.zip"),
        ("https://me:hush-/1@h/x", "https://***"),
        ("url: /x.tar?X-Amz-Signature=hush-&X-Amz-Date=1", None),
        ("abfs://c@a.dfs.core.windows.net/x?sv=1&sig=hush-", "abfs://c@a.dfs.core.windows.net/x"),
        ("bad header {'Authorization': 'Basic hush-hush'}", "bad header {'Authorization': '***'}"),
        ("Bearer hush-hush is refused", "Bearer *** is refused"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/ap/x.tar",) * 2,
        ("s3://b/what?-[0-9]@x.tar", "s3://b/what?-[0-9]@x.tar"),
        ("hf://datasets/a/b@main/x.tar", "hf://datasets/a/b@main/x.tar"),
        (f"https://h/x.pt#sha256={'a' * 64}", f"https://h/x.pt#sha256={'a' * 64}"),
    ],
)
def test_a_text_keeps_what_is_public(text, shown):
    assert MARK not in public_text(text)
    assert shown is None or public_text(text) == shown


def test_an_unforeseen_error_shows_no_secret_in_its_traceback():
    code = (
        "import sys; from speechmill.jobs import cli\n"
        "def fail(): raise ValueError('no https://me:hush-@h/x?sig=hush-')\n"
        "cli.app = lambda **_: fail()\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: no https://h/x" in done.stderr
    assert MARK not in done.stdout + done.stderr


def test_the_checkpoint_of_a_training_run_holds_no_secret_and_another_one_resumes_it():
    first, second = (
        {"shards": [f"https://h/x.tar?sig=hush-{n}"], "codec": {"options": {"hf_token": "hush-"}}}
        for n in range(2)
    )
    assert MARK not in str(run_identity(first, None))
    assert run_identity(first, None) == run_identity(second, None)


def test_ray_hands_secrets_to_workers_and_keeps_them_from_its_table_of_jobs(cluster, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speechmill", "storage.s3.secret=hush-typed"])
    variables = {
        "WEBHOOK": "hush-webhook",
        "AWS_SECRET_ACCESS_KEY": "hush-",
        "OMP_NUM_THREADS": "3",
    }
    with connected(RaySettings(address=cluster.address, env=variables)):
        jobs = str(ray._private.worker.global_worker.gcs_client.get_all_job_info())
        [environment] = ray.get([ray.remote(_environment).remote(variables)])
    assert "OMP_NUM_THREADS" in jobs
    assert MARK not in jobs
    assert "pytest" not in jobs  # the command line, on which secrets may be typed
    assert environment.items() >= variables.items()
    assert MARK not in everything_in(Path(cluster.head_node.get_logs_dir_path()))


def _environment(variables: dict[str, str]) -> dict[str, str]:
    set_environment(variables)
    return dict(os.environ)


@pytest.mark.parametrize("name", ["short", "a-folder-whose-path-is-too-long-for-sockets"])
def test_the_folder_of_a_local_cluster_is_private_short_and_removed(name, tmp_path, monkeypatch):
    parent = Path(tempfile.mkdtemp(dir="/tmp")) if name == "short" else tmp_path / name
    parent.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    with ray_local.private_folder() as folder:
        assert (folder.parent == parent) == (name == "short")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        longest = f"{folder}/r/session_2026-11-29_03-42-11_232485_4194304/sockets/plasma_store.1"
        assert len(longest) <= 103
    assert not folder.exists()


def test_a_missing_token_of_a_cluster_is_one_clear_line(cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        with (
            pytest.raises(InputError, match="token is missing or wrong; set RAY_AUTH_MODE=token"),
            connected(RaySettings(address=cluster.address)),
        ):
            pytest.fail("connected without a token")
    finally:
        monkeypatch.undo()
        ray_local.load_authentication()
