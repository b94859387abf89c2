"""The page on speech language models, followed from recordings to audio at toy size."""

import json
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from speechmill.jobs.cli import app
from speechmill.pipeline.dataset.layout import TokenDataset
from tests.conftest import REPOSITORY
from tests.jobs.datasets import make_dataset
from tests.test_docs import blocks, shell_lines
from tests.token_parts import make_token_dataset

PAGE = REPOSITORY / "docs/guide/speech-lm.md"
SCRIPTS = REPOSITORY / "samples/speech_lm"
TOY = {
    "tokenize": ["workers.count=0"],
    "train.py": ["--steps", "2", "--every", "1", "--heads", "1", "--layers", "1"],
    "generate.py": ["--prompt-seconds", "1", "--seconds", "1.5"],
}


@pytest.fixture
def script(monkeypatch):
    """Runs a script of the page in this process, and returns its exit code."""
    monkeypatch.syspath_prepend(SCRIPTS)

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return end.value.code

    yield run
    sys.modules.pop("model", None)


@pytest.fixture
def dataset(tmp_path) -> TokenDataset:
    return make_dataset(tmp_path)


def speech_of_the_samples(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "samples", folder)
    lines = (folder / "manifest.jsonl").read_text().splitlines()[:6]
    (folder / "manifest.jsonl").write_text("\n".join(lines))


def codes(folder: Path) -> dict[str, np.ndarray]:
    rows = pq.read_table(folder / "tokens", columns=["key", "codes"]).to_pylist()
    return {row["key"]: np.reshape(row["codes"], (-1, 8)) for row in rows}


def test_the_page_leads_from_speech_to_speech(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    speech_of_the_samples(tmp_path / "speech")
    split, *others = blocks(PAGE, "python")
    exec(split, {})
    for line in shell_lines(PAGE):
        program, command, *arguments = shlex.split(line)
        given = [*arguments, *TOY.get(Path(command).name, [])]
        if program == "python":
            assert script(Path(command).name, *given) == 0
        else:
            done = CliRunner().invoke(app, [command, *given])
            assert done.exit_code == 0, done.output
    log = [json.loads(line) for line in (tmp_path / "lm/run/log.jsonl").open()]
    assert [entry["step"] for entry in log] == [0, 1, 2]
    assert all(len(entry[f"{name}_bits"]) == 8 for entry in log for name in ("unigram", "held_out"))
    spoken, stored = codes(tmp_path / "lm/continued"), codes(tmp_path / "lm/compact")
    assert len(spoken) == 1
    for key, codes_FK in spoken.items():
        told = min(50, len(stored[key])) - 7  # of a prompt, the last codebook comes 7 rows late
        np.testing.assert_array_equal(codes_FK[:told], stored[key][:told])
        [file] = (tmp_path / "lm/audio").rglob(f"{key}.flac")
        assert soundfile.info(file).frames == 320 * len(codes_FK)
    found = {"codes_FK": stored[key]}
    for block in others:
        exec(block, found)
    assert (found["template"].vocabulary.num_ids, found["rows"].shape[1]) == (8512, 8)
    assert found["batch"]["input_ids"].shape[1:] == (512, 8)


@pytest.mark.parametrize(
    ("condition", "message"),
    [("duration > 99", "no row of"), ("duration > 0", "left to train on"), ("durat > 0", "durat")],
)
def test_rows_must_be_on_both_sides_of_the_split(
    dataset, tmp_path, script, capsys, condition, message
):
    assert script("train.py", dataset.root, tmp_path / "run", "--held-out", condition) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_nor_taken_for_another_codec(dataset, tmp_path, script, capsys):
    wanted = [dataset.root, tmp_path / "run", "--held-out", "index < 2", *TOY["train.py"]]
    assert (script("train.py", *wanted), script("train.py", *wanted)) == (0, 2)
    assert "holds a run; delete it" in capsys.readouterr().err
    generate = ["generate.py", tmp_path / "run", dataset.root]
    assert script(*generate, dataset.root, "--where", "index < 1") == 2
    assert "is not empty; set another output" in capsys.readouterr().err
    assert script(*generate, tmp_path / "new", "--where", "index > 9") == 2
    assert "no row of" in capsys.readouterr().err
    facts = json.loads((tmp_path / "run/model.json").read_text())
    (tmp_path / "run/model.json").write_text(json.dumps({**facts, "revision": "other"}))
    assert script(*generate, tmp_path / "new", "--where", "index < 1") == 2
    assert "learned tokens of revision other" in capsys.readouterr().err
    (tmp_path / "run/model.safetensors").write_bytes(b"rubbish")
    assert script(*generate, tmp_path / "new", "--where", "index < 1") == 2
    assert "holds no trained model" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("log", "message"),
    [(None, "train first"), ('{"step": 0, "sec', "train first"), ("{}", "holds 1 measurements")],
)
def test_a_log_without_a_curve_is_named(tmp_path, script, capsys, log, message):
    if log:
        (tmp_path / "log.jsonl").write_text(log)
    assert script("curve.py", tmp_path, tmp_path / "curve.svg") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "curve.svg").exists()


def test_segments_of_one_recording_are_continued_under_distinct_keys(tmp_path, script):
    segments = make_token_dataset(str(tmp_path / "out"), [[9] * 8], segments=2)
    wanted = [segments.root, tmp_path / "run", "--held-out", "index < 1", *TOY["train.py"]]
    assert script("train.py", *wanted) == 0
    generate = [tmp_path / "run", segments.root, tmp_path / "new", "--where", "index < 1"]
    short = ["--prompt-seconds", "0", "--seconds", "0.1"]
    assert script("generate.py", *generate, *short) == 0
    assert sorted(codes(tmp_path / "new")) == ["0-0", "0-0-2"]
    assert all(len(codes_FK) for codes_FK in codes(tmp_path / "new").values())
