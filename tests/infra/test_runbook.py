"""The commands of the runbook, typed as they stand."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.corpus import clip, tar_bytes, write_corpus
from tests.jobs.conftest import invoke
from tests.test_docs import blocks, shell_lines

PAGE = REPOSITORY / "docs/guide/operations.md"
EVENTS = [line for line in shell_lines(PAGE) if line.startswith("jq") and "events.jsonl" in line]
SILENT = ("retry", "worker lost", "worker dropped")  # none of these in a calm run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `demo/tokens`: a reject in one shard, another shard given up on."""
    if not shutil.which("jq"):
        message = "jq is missing: run 'apt-get install jq' as root"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("runbook")
    whole = tar_bytes([("a.flac", clip(0.5)), ("bad.flac", b"junk")])
    write_corpus(folder / "demo/shards", num_shards=2, clips_per_shard=2, seconds=0.4)
    (folder / "demo/shards/bad.tar").write_bytes(whole)
    (folder / "demo/shards/cut.tar").write_bytes(whole[:700])
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert invoke("tokenize", "configs/tokenize/demo.yaml", "workers.count=0").exit_code == 1
    return folder


def typed(script: str, folder: Path, given: str = "") -> str:
    """What a shell prints."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("line", EVENTS)
def test_a_question_to_the_events_has_an_answer(home, line):
    enter = next(line for line in shell_lines(PAGE) if line.startswith("cd "))
    answer = typed(f"{enter}; {line}", home)
    assert answer or any(f'"{event}"' in line for event in SILENT)


def test_the_nodes_of_a_run_are_compared_by_three_numbers(home):
    enter = next(line for line in shell_lines(PAGE) if line.startswith("cd "))
    [compare] = [line for line in EVENTS if "group_by(.node)" in line]
    [(_, shards, seconds, share)] = [
        row.split("\t") for row in typed(f"{enter}; {compare}", home).splitlines()
    ]
    assert shards == "3"
    assert float(seconds) > 0
    assert 0 <= float(share) <= 1


def test_the_table_of_rejects_is_read_as_the_page_says(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    [example] = blocks(PAGE, "python")
    exec(example, {})
    assert "bad.flac" in capsys.readouterr().out


def test_the_shards_that_failed_are_tried_again_alone(home, monkeypatch):
    monkeypatch.chdir(home)
    status, retry, _ = [line for line in shell_lines(PAGE) if "failed.txt" in line]
    command, _, pipe = status.partition(" | ")
    failed = typed(pipe, home, given=invoke(*shlex.split(command)[1:]).stdout)
    assert failed.endswith("/demo/shards/cut.tar\n")
    shutil.copy(home / "demo/shards/bad.tar", home / "demo/shards/cut.tar")
    done = invoke(*shlex.split(retry)[1:], "workers.count=0")
    assert "shards   1, 0 of them done" in done.stdout
    assert invoke(*shlex.split(command)[1:]).exit_code == 0
