"""The probe of samples/probe finds the text in the codebook that holds it, and only there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import Shard
from tests.conftest import REPOSITORY
from tests.test_docs import module_of
from tests.token_parts import empty_dataset, write_rows

PROBE = module_of(REPOSITORY / "samples/probe/probe.py")
LETTERS = "abcdefghijk"
NUM_CODEBOOKS = 8


def planted(root: Path, rows: int, **columns: list[str]) -> TokenDataset:
    """Codebook 1 spells the text, three frames a letter in any of 5 codes; others are noise."""
    random = np.random.default_rng(0)
    numbers = [random.permutation(len(LETTERS))[:7] for _ in range(rows)]
    codes = [random.integers(0, 1024, (21, NUM_CODEBOOKS)) for _ in range(rows)]
    for letters_N, codes_FK in zip(numbers, codes, strict=True):
        codes_FK[:, 1] = 5 * letters_N.repeat(3) + random.integers(0, 5, 21)
    columns = {
        "codes": [codes_FK.reshape(-1) for codes_FK in codes],
        "text": ["".join(LETTERS[n] for n in letters_N).upper() + "." for letters_N in numbers],
        **columns,
    }
    dataset = empty_dataset(str(root))
    write_rows(dataset, Shard("/corpus/a.tar", 1, "e"), [21] * rows, **columns)
    return dataset


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(PROBE.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_text_is_read_in_the_codebook_that_spells_it_and_in_no_other(tmp_path: Path) -> None:
    dataset = planted(tmp_path / "tokens", 200)
    sizes = PROBE.Sizes(width=24, reach=1, stride=1, outputs=1)
    learned, measured = (
        PROBE.read(dataset, side, sizes) for side in ("index < 160", "index >= 160")
    )
    noise, text, nothing = (
        PROBE.measure(learned, measured, [1024] * NUM_CODEBOOKS, books, sizes, epochs=8, lr=3e-2)
        for books in ([0], [1], [])
    )
    assert text["char_error_rate"] < 0.1
    assert text["bits_per_character"] < 0.5
    for without in (noise, nothing):
        assert 0.7 <= without["char_error_rate"] <= 1.0
        assert without["bits_per_character"] > 2
        low, high = without["interval"]
        assert low <= without["char_error_rate"] <= high


def test_every_codebook_and_all_together_are_measured_with_probes_of_equal_size(
    tmp_path: Path,
) -> None:
    dataset = planted(tmp_path / "tokens", 6)
    done = run(dataset.root, "--held-out", "index == 5", "--epochs", 1)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    books = list(range(NUM_CODEBOOKS))
    assert [line["codebooks"] for line in lines] == [[], *([book] for book in books), books]
    assert all(line["char_error_rate"] >= 0 < line["bits_per_character"] for line in lines)
    sizes = PROBE.Sizes.at(50.0, 64, 0.2)
    count = [
        sum(p.numel() for p in PROBE.Probe(chosen, sizes, 30).parameters())
        for chosen in ([1024], [1024] * NUM_CODEBOOKS)
    ]
    assert count[0] == count[1]


@pytest.mark.parametrize("frame_rate", [12.5, 25.0, 40.0, 50.0, 75.0])
def test_tokens_of_any_rate_have_25_to_50_labels_a_second_and_padding_changes_none(
    frame_rate: float,
) -> None:
    sizes = PROBE.Sizes.at(frame_rate, 8, 0.1)
    assert 25 <= frame_rate / sizes.stride * sizes.outputs < 50
    codes_BFK, frames_B = torch.randint(0, 5, (2, 70, 1)), torch.tensor([70, 37])
    probe = PROBE.Probe([5], sizes, 3)
    logp_BTL, (longer, shorter) = probe(codes_BFK, frames_B), sizes.num_labels(frames_B)
    assert logp_BTL.shape == (2, longer, 3)
    alone_BTL = probe(codes_BFK[1:, :37], frames_B[1:])
    torch.testing.assert_close(logp_BTL[1:, :shorter], alone_BTL)


@pytest.mark.parametrize(("text", "kept"), [("abcdefg", 1), ("aabcdef", 0), ("abcdefgh", 0)])
def test_a_text_that_has_too_few_labels_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, kept: int
) -> None:
    dataset = planted(tmp_path / "tokens", 2, text=["ab", text])
    sizes = PROBE.Sizes(width=8, reach=1, stride=3, outputs=1)  # 7 labels in 21 frames
    assert len(PROBE.read(dataset, "index >= 0", sizes)) == 1 + kept
    assert ("left out 1 of 2 rows" in capsys.readouterr().err) == (not kept)


@pytest.mark.parametrize(
    ("condition", "text", "message"),
    [("index > 9", None, "index > 9"), ("index == 1", "", "has a text"), ("ind > 1", None, "ind")],
)
def test_a_side_of_the_split_without_text_is_refused(
    tmp_path: Path, condition: str, text: str | None, message: str
) -> None:
    columns = {} if text is None else {"text": [text] * 3}
    dataset = planted(tmp_path / "tokens", 3, **columns)
    done = run(dataset.root, "--held-out", condition)
    assert (done.exit_code, message in done.stderr) == (2, True)
