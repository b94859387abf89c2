import io
import re

import numpy as np
import pytest
from rich.console import Console

from speechmill.jobs.commands.status import print_status, read_status
from speechmill.pipeline.dataset.export.exporter import Export, export_dataset
from speechmill.pipeline.dataset.export.ids import PatternIds
from speechmill.pipeline.dataset.generated import Generated, write_generated
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.verify import verify_files
from speechmill.pipeline.errors import DatasetConflict, InputError
from tests.jobs.datasets import make_dataset

CODES_FK = np.arange(16).reshape(2, 8)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> TokenDataset:
    return make_dataset(tmp_path_factory.mktemp("source"))


def test_generated_codes_are_a_dataset_of_the_same_codec(source, tmp_path):
    target = TokenDataset(str(tmp_path / "out"), source.storage)
    said = Generated("a/b", CODES_FK, text="hi", metadata='{"prompt": "x"}')
    write_generated(source, target, [said, Generated("none", CODES_FK[:0])])
    [part] = target.parts()
    rows = target.read_columns(part, ["key", "codes", "num_frames", "end", "text", "metadata"])
    assert rows.to_pylist()[0] == {
        "key": "a/b",
        "codes": list(range(16)),
        "num_frames": 2,
        "end": 0.04,
        "text": "hi",
        "metadata": '{"prompt": "x"}',
    }
    identity = target.require_identity()
    assert {name: identity[name] for name in ("codec", "revision", "generated")} == {
        "codec": "null",
        "revision": source.require_identity()["revision"],
        "generated": True,
    }


def test_an_utterance_without_frames_is_a_reject_and_the_others_keep_their_places(source, tmp_path):
    target = TokenDataset(str(tmp_path / "out"), source.storage)
    write_generated(source, target, [Generated("mute", CODES_FK[:0]), Generated("b", CODES_FK)])
    checked = verify_files(target)
    assert (checked.rows, checked.rejects, checked.faults, checked.notes) == (1, 1, [], [])
    [part] = target.parts()
    assert target.read_columns(part, ["key", "index"]).to_pylist() == [{"key": "b", "index": 1}]
    silent = TokenDataset(str(tmp_path / "silent"), source.storage)
    write_generated(source, silent, [Generated("mute", CODES_FK[:0])])
    assert verify_files(silent).faults == []


def test_a_card_and_a_status_know_that_a_model_made_the_codes(source, tmp_path):
    target = TokenDataset(str(tmp_path / "out"), source.storage)
    write_generated(source, target, [Generated("a", CODES_FK)])
    ids = PatternIds(make_pattern("flatten", [1024] * 8))
    assert len(list(export_dataset(target, f"{tmp_path}/hf", Export("hf", ids, 8)))) == 1
    assert "that of the language model" in (tmp_path / "hf" / "README.md").read_text()
    print_status(read_status(target), Console(file=(shown := io.StringIO())))
    assert re.search(r"last run +none", shown.getvalue())


def test_no_run_continues_what_a_model_generated(source, tmp_path):
    target = TokenDataset(str(tmp_path / "out"), source.storage)
    write_generated(source, target, [Generated("a", CODES_FK)])
    with pytest.raises(DatasetConflict, match="that a language model generated; set another"):
        target.claim(source.require_identity())


def test_a_folder_that_holds_anything_is_refused(source):
    with pytest.raises(InputError, match="is not empty; set another output"):
        write_generated(source, source, [Generated("a", CODES_FK)])


@pytest.mark.parametrize(
    "codes_FK", [CODES_FK[:, :4], CODES_FK + 1024, CODES_FK - 1, CODES_FK / 2, CODES_FK[0]]
)
def test_codes_of_another_codec_are_refused(source, tmp_path, codes_FK):
    target = TokenDataset(str(tmp_path / "out"), source.storage)
    with pytest.raises(InputError, match="the codes of 'a' are"):
        write_generated(source, target, [Generated("a", codes_FK)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": None}, "the key of None is None; give text"),
        ({"key": "a\ud800"}, "is 'a.ud800'; give text that UTF-8 can hold"),
        ({"text": 5}, "the text of 'a' is 5; give text"),
        ({"metadata": {"b": 1}}, "the metadata of 'a' is {'b': 1}; give text"),
        ({"metadata": "{"}, "the metadata of 'a' is '{'; give JSON"),
        ({"key": "same"}, "2 utterances have the key 'same'; give each its own"),
    ],
)
def test_an_utterance_that_no_dataset_can_hold_is_named(source, tmp_path, changes, message):
    target = TokenDataset(str(tmp_path / "out"), source.storage)
    said = Generated(**{"key": "a", "codes_FK": CODES_FK, **changes})
    with pytest.raises(InputError, match=message):
        write_generated(source, target, [Generated("same", CODES_FK), said])
    assert not (tmp_path / "out").exists()


def test_no_utterances_are_no_dataset(source, tmp_path):
    with pytest.raises(InputError, match="there are no utterances to write; give at least one"):
        write_generated(source, TokenDataset(str(tmp_path / "out"), source.storage), [])
