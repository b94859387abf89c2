"""Finding codecs by name."""

import json
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from speechmill.codecs import (
    CheckpointError,
    InvalidConfig,
    UnknownCodec,
    UnsupportedPrecision,
    codec_info,
    list_codecs,
    load_codec,
)
from speechmill.codecs.family import CodecFamily, revision_of
from speechmill.codecs.null import FAMILY as NULL_FAMILY

THEIRS = CodecFamily(variants=("theirs",), info=NULL_FAMILY.info, load=NULL_FAMILY.load)
BROKEN = 3


def test_importing_and_reading_facts_loads_neither_networks_nor_ray_nor_pyarrow() -> None:
    program = (
        "import sys, speechmill.codecs as s; s.codec_info('pure-4k'); s.list_codecs();"
        "heavy = {'ray', 'pyarrow', 's3fs', 'huggingface_hub', 'speechmill.codecs.pure.model'};"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_facts_of_the_largest_codec_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    assert codec_info("pure-4k").kbps == 4


def test_an_unknown_name_lists_the_known_names_and_the_nearest() -> None:
    with pytest.raises(UnknownCodec, match=r"did you mean 'pure-4k'\?; known: .*null, pure-0.5k"):
        load_codec("pure4k")


def test_a_family_is_a_codec_only_with_a_config() -> None:
    with pytest.raises(UnknownCodec, match="pure-16k-small"):
        codec_info("pure")
    assert codec_info("pure", config={"num_codebooks": 3}).num_codebooks == 3


def test_a_config_may_be_a_file_and_decides_the_revision(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_codebooks": 2}))
    info = codec_info("pure-4k", config=path)
    assert info == codec_info("pure-4k", config={"num_codebooks": 2})
    assert info.revision == codec_info("pure-1k").revision != codec_info("pure-4k").revision


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_codebook": 3}, "did you mean 'num_codebooks'"),
        ({"num_codebooks": 9}, "num_codebooks is 9"),
        ({"strides": [2, 4]}, "5 channels for 2 strides"),
        ({"dim": 0}, "at least 1"),
        ({"dim": "64"}, "dim is '64', must be like 512"),
        ({"lstm_layers": True}, "lstm_layers is True, must be like 2"),
        ({"strides": 320}, r"strides is 320, must be like \(2, 4, 5, 8\)"),
        ({"strides": [2, "4"]}, "an entry of strides is '4', must be like 2"),
        ("/no/such.json", "/no/such.json"),
    ],
)
def test_a_bad_config_is_refused(config: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        codec_info("pure-4k", config=config)


def test_an_option_of_another_codec_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="semantic_stats"):
        load_codec("null", semantic_stats="x")
    with pytest.raises(InvalidConfig, match="no checkpoint"):
        load_codec("null", checkpoint="x")


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load_codec("pure-4k", checkpoint="none.safetensors")


@pytest.mark.parametrize(
    ("precision", "message"),
    [("int8", "valid: fp32, tf32, bf16, fp16"), ("fp16", "use fp32 or bf16"), ("tf32", "fp32")],
)
def test_a_precision_that_a_cpu_lacks_is_refused(precision: str, message: str) -> None:
    with pytest.raises(UnsupportedPrecision, match=message):
        load_codec("null", precision=precision)


def test_third_party_codecs_are_found_and_broken_ones_are_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(*, group: str) -> list[EntryPoint]:
        values = {"b": "no_such_package:FAMILY", "c": f"{__name__}:BROKEN", "t": "theirs:THEIRS"}
        return [EntryPoint(name, value, group) for name, value in values.items()]

    monkeypatch.setitem(sys.modules, "theirs", sys.modules[__name__])
    monkeypatch.setattr("speechmill.codecs.registry.entry_points", found)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert "theirs" in list_codecs()
        assert load_codec("theirs").info.revision == codec_info("null").revision
    messages = " ".join(str(warning.message) for warning in warned)
    assert "no_such_package:FAMILY" in messages
    assert "BROKEN' is not a CodecFamily" in messages


def test_a_revision_depends_on_the_content_not_on_the_order_of_keys() -> None:
    one = revision_of({"a": 1, "b": (2,)}, {"checkpoint": "x"})
    assert one == revision_of({"b": [2], "a": 1}, {"checkpoint": "x"})
    assert one != revision_of({"a": 1, "b": (2,)}, {"checkpoint": "y"})
