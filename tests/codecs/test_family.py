"""Families: networks described by dataclasses, and plain functions."""

from dataclasses import asdict

import pytest

from speechmill.codecs import InvalidConfig, codec_info, list_codecs, load_recipe
from speechmill.codecs.family import CodecFamily, CompileOptions, NetworkFamily
from speechmill.codecs.focalcodec import FAMILY as FOCALCODEC
from speechmill.codecs.hasrd import FAMILY as HASRD
from speechmill.codecs.null import FAMILY as NULL
from speechmill.codecs.registry import file_arguments
from speechmill.codecs.simwhisper.recipe import SimWhisperRecipeConfig


def test_the_options_are_the_fields_of_the_dataclass() -> None:
    assert FOCALCODEC.options == frozenset(asdict(CompileOptions()))
    assert HASRD.options == {"compile", "semantic_checkpoint"}


def test_options_and_settings_that_are_files_are_known_by_variant_and_by_family() -> None:
    semantic = frozenset({"semantic_checkpoint"})
    assert file_arguments("hasrd") == file_arguments("hasrd-2k") == (semantic, frozenset())
    assert file_arguments("dualcodec-12hz")[0] == semantic | {"semantic_stats"}
    assert file_arguments("focalcodec-50hz") == (frozenset(), frozenset({"wavlm"}))
    assert file_arguments("simwhisper")[1] <= asdict(SimWhisperRecipeConfig()).keys()
    assert file_arguments("null") == (frozenset(), frozenset())


@pytest.mark.parametrize("option", ["compile", "keep_partial"])
def test_a_recipe_takes_only_the_options_that_are_files(option: str) -> None:
    with pytest.raises(InvalidConfig, match=f"not trained with the option {option!r}"):
        load_recipe("simwhisper-16k", checkpoint="untrained", **{option: True})


@pytest.mark.parametrize("name", ["mimi", "null"])
def test_a_family_without_a_recipe_cannot_be_trained(name: str) -> None:
    with pytest.raises(InvalidConfig, match=f"{name} cannot be trained"):
        load_recipe(name, checkpoint="untrained")


def test_a_plain_family_is_made_of_functions() -> None:
    def recipe(name: str, *, bits: int) -> None: ...

    plain = CodecFamily(variants=("plain",), info=NULL.info, load=NULL.load, recipe=recipe)
    assert not isinstance(NULL, NetworkFamily)
    assert (plain.options, plain.file_options, dict(plain.cards)) == (frozenset(), frozenset(), {})
    assert plain.trains_with("bits")
    assert not plain.trains_with("compile")


def test_the_option_to_compile_is_not_part_of_the_identity() -> None:
    for name in set(list_codecs()) & {"pure-4k", "hasrd-2k", "simwhisper-16k"}:
        plain = codec_info(name, checkpoint="untrained")
        assert codec_info(name, checkpoint="untrained", compile=True) == plain
