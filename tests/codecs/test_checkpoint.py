"""Fetching, verifying and reading checkpoints."""

import hashlib
import multiprocessing
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import save_file
from torch import nn

from speechmill.codecs import CheckpointError
from speechmill.codecs.checkpoint import allocate, load_strict, read_state_dict
from speechmill.codecs.fetch import fetch
from speechmill.codecs.pure import codec

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class SlowRemote(LocalFileSystem):
    """A slow remote store that leaves a file for every download."""

    protocol = "slow"

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        with Path(f"{self._strip_protocol(rpath)}.downloads").open("a") as log:
            log.write("x")
        time.sleep(0.3)
        super().get_file(rpath, lpath, **kwargs)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code ran",)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fsspec.register_implementation("slow", SlowRemote, clobber=True)
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_plain_path_is_read_in_place(weights: Path, cache: Path) -> None:
    assert fetch(weights, sha256(weights)) == weights
    assert not cache.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for url in (f"{tmp_path}/none.pt", f"file://{tmp_path}/none.pt", "nowhere://x/y.pt"):
        with pytest.raises(CheckpointError, match=url):
            fetch(url)


def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://bucket/x.pt", "NoCredentialsError: Unable to locate credentials"),
        ("http://127.0.0.1:1/x.pt", "Cannot connect"),
        ("foo://b/x.pt", "Protocol not known: foo"),
        ("hf://owner/x.pt", "is not hf://owner/repo"),
        ("~no-such-user/x.pt", "home directory"),
        ("nul\0byte.pt", "a path must name a file"),
    ],
)
def test_every_fault_of_a_checkpoint_is_one_line_with_its_url(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_credentials(monkeypatch)
    with pytest.raises(CheckpointError, match=reason) as found:
        fetch(url)
    assert "\n" not in str(found.value)
    assert repr(url) in str(found.value)


def test_the_package_that_a_url_needs_is_named() -> None:
    with pytest.raises(CheckpointError, match="pip install gcsfs"):
        fetch("gs://bucket/x.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, suffix: str, value: float
) -> None:
    path = tmp_path / f"broken.{suffix}"
    state = STATE | {"step": torch.tensor(3), "encoder.bias": torch.tensor([1.0, value]).half()}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights \(1\): encoder\.bias"):
        read_state_dict(path)


def test_a_url_is_downloaded_once(weights: Path) -> None:
    first = fetch(f"slow://{weights}", sha256(weights))
    assert fetch(f"slow://{weights}") == first != weights
    assert first.read_bytes() == weights.read_bytes()
    assert Path(f"{weights}.downloads").read_text() == "x"


def test_an_object_that_was_replaced_is_fetched_again(weights: Path) -> None:
    old = fetch(f"file://{weights}")
    save_file({"weight": torch.zeros(100)}, weights)
    assert fetch(f"file://{weights}") != old


def test_processes_that_ask_at_once_share_one_download(weights: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        paths = pool.map(fetch, [f"slow://{weights}"] * 8, chunksize=1)
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == weights.read_bytes()
    assert Path(f"{weights}.downloads").read_text() == "x"


def test_a_wrong_digest_names_both_and_leaves_nothing_in_the_cache(
    weights: Path, cache: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"{sha256(weights)}.*{'0' * 64}"):
        fetch(f"file://{weights}", "0" * 64)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_corrupted_copy_is_removed_and_fetched_again(weights: Path) -> None:
    cached = fetch(f"file://{weights}")
    cached.write_bytes(b"rot")
    with pytest.raises(CheckpointError, match=sha256(weights)):
        fetch(f"file://{weights}", sha256(weights))
    assert fetch(f"file://{weights}", sha256(weights)).read_bytes() == weights.read_bytes()


def test_a_local_file_with_a_wrong_digest_is_not_removed(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="0" * 64):
        fetch(weights, "0" * 64)
    assert weights.exists()


def test_a_file_of_an_installed_package_is_read_in_place() -> None:
    assert fetch("package://speechmill.codecs/pure/codec.py") == Path(codec.__file__)
    with pytest.raises(CheckpointError, match="must name a file"):
        fetch("package://speechmill.codecs/none.safetensors")
    with pytest.raises(CheckpointError, match="no package"):
        fetch("package://no_such_package/x.safetensors")


def test_a_hub_url_names_repository_revision_and_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(repo: str, name: str, *, revision: str | None, cache_dir: Path) -> str:
        asked.append((repo, name, revision))
        return str(weights)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert fetch("hf://owner/repo@v1/folder/x.safetensors") == weights
    fetch("hf://owner/repo/x.safetensors")
    assert asked == [
        ("owner/repo", "folder/x.safetensors", "v1"),
        ("owner/repo", "x.safetensors", None),
    ]
    with pytest.raises(CheckpointError, match="hf://owner/repo"):
        fetch("hf://owner/repo")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".legacy"])
def test_a_truncated_or_corrupt_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=suffix == ".pt")
    whole = path.read_bytes()
    for content in (b"", whole[:10], whole[: len(whole) // 2], whole[:-4], bytes(100), whole[9:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=path.name):
            read_state_dict(path)


def test_a_pickle_that_carries_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"weight": Payload()}, path)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_state_dict(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_weights_may_be_nested_under_a_key(tmp_path: Path) -> None:
    torch.save({"model": STATE, "step": 3}, tmp_path / "x.pt")
    assert read_state_dict(tmp_path / "x.pt", key="model").keys() == STATE.keys()
    with pytest.raises(CheckpointError, match="'model', 'step'"):
        read_state_dict(tmp_path / "x.pt")


def test_one_error_lists_all_misfits() -> None:
    state = {f"extra{i:02}": torch.ones(1) for i in range(12)} | {"weight": torch.ones(3, 2)}
    with pytest.raises(CheckpointError) as raised:
        load_strict(nn.Linear(3, 2), state, "x.pt")
    message = str(raised.value)
    assert "x.pt" in message
    assert "missing (1): bias" in message
    assert "unexpected (12): extra00" in message
    assert "extra09 and 2 more" in message
    assert "weight (3, 2) for (2, 3)" in message


def test_half_precision_weights_load_into_float32() -> None:
    linear = nn.Linear(3, 2)
    load_strict(linear, {key: value.half() for key, value in STATE.items()})
    assert linear.weight.dtype == torch.float32
    assert torch.equal(linear.weight, STATE["weight"])


def test_an_allocated_network_draws_nothing_and_keeps_its_constants() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 3), nn.Embedding(2, 2), nn.Conv1d(1, 1, 3))
            self.register_buffer("constant", torch.arange(3.0), persistent=False)

    before = torch.get_rng_state()
    network = allocate(Network)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.constant.tolist() == [0, 1, 2]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_codec_loads_without_the_compiler_of_pytorch() -> None:
    script = (
        "import sys\n"
        "from torch import nn\n"
        "from torch.nn.utils.parametrizations import weight_norm\n"
        "from speechmill.codecs import load_codec\n"
        "from speechmill.codecs.checkpoint import allocate\n"
        "allocate(lambda: nn.Sequential(weight_norm(nn.Conv1d(1, 1, 3)), nn.Embedding(2, 2)))\n"
        "load_codec('pure-16k-small')\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
