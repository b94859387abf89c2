"""docs/guide/doctor.md shows what the doctor says."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.jobs.conftest import invoke

PAGE = (REPOSITORY / "docs/guide/doctor.md").read_text()
SHOWN = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TYPED = re.findall(r"^speechmill (doctor configs/tokenize/demo.yaml .*)$", PAGE, re.MULTILINE)


def said_of(output: str, folder: Path) -> list[tuple[str, ...]]:
    """The checks in their order; of faults and what they skip, also the words without numbers."""
    found: list[tuple[str, ...]] = []
    for line in output.splitlines()[:-1]:
        result, check, message = line.split(maxsplit=2)
        message = re.sub(r"[0-9a-f]{16}|\d+", "N", message.replace(str(folder), "/…"))
        found.append((check, result, message) if result in ("fault", "skipped") else (check,))
    return [each for each in found if each[0] != "proxies"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the page was made without a GPU")
@pytest.mark.parametrize("number", [0, 1], ids=["healthy", "faulty"])
def test_the_page_shows_what_the_doctor_says(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(REPOSITORY / "configs")
    Path("broken.safetensors").write_text("broken\n")
    packed = invoke("pack", REPOSITORY / "samples/manifest.jsonl", "demo/shards", "shard_mb=0.4")
    assert packed.exit_code == 0
    done = invoke(*shlex.split(TYPED[number]), "--seconds", 240)
    assert said_of(done.stdout, tmp_path) == said_of(SHOWN[number], Path("/…"))
    assert done.exit_code == number
