"""Read Whisper's weights from CTranslate2's model.bin, and give them the names of transformers.

The format is version 6 of CTranslate2's binary models: little-endian, every tensor with its name,
shape and type, then the aliases of tensors that are stored once.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.errors import InputError

Tensors = dict[str, npt.NDArray[Any]]

_VERSION = 6
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_NORM = {"gamma": "weight", "beta": "bias"}
_ATTENTION = {"self_attention": "self_attn", "attention": "encoder_attn"}
_PROJECTIONS = {  # the projections whose weights one linear layer holds, one below the other
    "self_attention": {"linear_0": "qkv", "linear_1": "o"},
    "attention": {"linear_0": "q", "linear_1": "kv", "linear_2": "o"},
}
_FULL_NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}


def read_model(data: bytes) -> Tensors:
    """Return the tensors of a model.bin, without aliases; they share its memory.

    Raises `InputError` for another format, and for a file that ends early.
    """
    reader = _Reader(data)
    try:
        version, kind = reader.number("I"), reader.text()
        if (version, kind) != (_VERSION, "WhisperSpec"):
            raise InputError(
                f"model.bin is version {version} of {kind[:50]!r}; only version {_VERSION} of "
                "WhisperSpec can be read"
            )
        reader.number("I")  # the revision of WhisperSpec
        return dict(reader.tensor() for _ in range(reader.number("I")))
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(f"model.bin is damaged: {error}") from error


def to_transformers(tensors: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    """Return the weights of `WhisperForConditionalGeneration`, with their types.

    Raises `InputError` for a tensor that Whisper does not have and for quantized weights.
    """
    weights: Tensors = {}
    for name, tensor in tensors.items():
        if not tensor.ndim:
            continue  # a setting
        if tensor.dtype not in (np.float16, np.float32):
            raise InputError(f"model.bin holds {name} as {tensor.dtype}; give a model in float16")
        weights |= _renamed(name, tensor)
    return weights


def _renamed(name: str, tensor: npt.NDArray[Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    side, *path = name.split("/")
    match path:
        case [("conv1" | "conv2") as conv, part]:
            yield f"model.{side}.{conv}.{part}", tensor
        case ["position_encodings", "encodings"]:
            yield f"model.{side}.embed_positions.weight", tensor
        case ["embeddings", "weight"]:
            yield f"model.{side}.embed_tokens.weight", tensor
        case ["layer_norm", part]:
            yield f"model.{side}.layer_norm.{_NORM[part]}", tensor
        case [layer, "ffn", "layer_norm", part]:
            yield f"{_layer(side, layer)}.final_layer_norm.{_NORM[part]}", tensor
        case [layer, "ffn", ("linear_0" | "linear_1") as linear, part]:
            yield f"{_layer(side, layer)}.fc{int(linear[-1]) + 1}.{part}", tensor
        case [layer, ("self_attention" | "attention") as block, "layer_norm", part]:
            attention = f"{_layer(side, layer)}.{_ATTENTION[block]}"
            yield f"{attention}_layer_norm.{_NORM[part]}", tensor
        case [layer, ("self_attention" | "attention") as block, linear, part]:
            attention = f"{_layer(side, layer)}.{_ATTENTION[block]}"
            letters = _PROJECTIONS[block][linear]
            for letter, rows in zip(letters, np.split(tensor, len(letters)), strict=True):
                if letter + part != "kbias":
                    yield f"{attention}.{_FULL_NAMES[letter]}.{part}", rows
                elif rows.any():
                    raise InputError(f"{name} has a bias of keys, which Whisper does not have")
        case _:
            raise InputError(f"model.bin holds {name}, which Whisper does not have")


def _layer(side: str, layer: str) -> str:
    return f"model.{side}.layers.{int(layer.removeprefix('layer_'))}"


class _Reader:
    """Reads one value after the other."""

    def __init__(self, data: bytes):
        self._data = memoryview(data)
        self._at = 0

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return int(value)

    def text(self) -> str:
        return bytes(self._take(self.number("H"))).rstrip(b"\0").decode()

    def tensor(self) -> tuple[str, npt.NDArray[Any]]:
        name = self.text()
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind = _TYPES[self.number("B")]
        return name, np.frombuffer(self._take(self.number("I")), kind).reshape(shape)

    def _take(self, size: int) -> memoryview:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("it ends early")
        self._at += size
        return taken
