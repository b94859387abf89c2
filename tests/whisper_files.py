"""A tiny Whisper, and the files of it that CTranslate2 would write."""

import struct
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

_TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
TOKENS = ("endoftext", "startoftranscript", "en", "translate", "transcribe", "startofprev")
TOKENS += ("notimestamps",)
CONFIG = {"suppress_ids": [1], "suppress_ids_begin": [2], "alignment_heads": [], "lang_ids": [62]}


def tokenizer() -> dict[str, Any]:
    """A tokenizer of bytes-as-letters, with Whisper's special tokens after 60 letters."""
    added = [{"id": 60 + n, "content": f"<|{token}|>"} for n, token in enumerate(TOKENS)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [{**token, **flags, "special": True} for token in added],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": {chr(ord("A") + n): n for n in range(60)},
            "merges": [],
        },
    }


def whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=67,
        d_model=16,
        num_mel_bins=80,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=32,
        max_target_positions=20,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 60),
        decoder_start_token_id=61,
    )
    network = WhisperForConditionalGeneration(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        parameter.data = parameter.half().float()
    return network


def converted(network: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The network's weights as CTranslate2 names, joins and stores them."""
    state = {name: value.half().numpy() for name, value in network.state_dict().items()}
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, *theirs: str) -> None:
        tensors[f"{name}/weight"] = np.concatenate([state[f"{one}.weight"] for one in theirs])
        biases = [state.get(f"{one}.bias", np.zeros(16, np.float16)) for one in theirs]
        tensors[f"{name}/bias"] = np.concatenate(biases)

    def norm(name: str, theirs: str) -> None:
        tensors[f"{name}/gamma"] = state[f"{theirs}.weight"]
        tensors[f"{name}/beta"] = state[f"{theirs}.bias"]

    for side, layers, heads in (("encoder", 2, 4), ("decoder", 1, 2)):
        own = f"model.{side}"
        tensors[f"{side}/num_heads"] = np.int16(heads)
        encodings = state[f"{own}.embed_positions.weight"]
        tensors[f"{side}/position_encodings/encodings"] = encodings
        norm(f"{side}/layer_norm", f"{own}.layer_norm")
        for n in range(layers):
            name, theirs = f"{side}/layer_{n}", f"{own}.layers.{n}"
            attention = f"{theirs}.self_attn"
            linear(f"{name}/self_attention/linear_0", *(f"{attention}.{p}_proj" for p in "qkv"))
            linear(f"{name}/self_attention/linear_1", f"{attention}.out_proj")
            norm(f"{name}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
            if side == "decoder":
                attention = f"{theirs}.encoder_attn"
                linear(f"{name}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{name}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                linear(f"{name}/attention/linear_2", f"{attention}.out_proj")
                norm(f"{name}/attention/layer_norm", f"{theirs}.encoder_attn_layer_norm")
            linear(f"{name}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{name}/ffn/linear_1", f"{theirs}.fc2")
            norm(f"{name}/ffn/layer_norm", f"{theirs}.final_layer_norm")
    for n in (1, 2):
        linear(f"encoder/conv{n}", f"model.encoder.conv{n}")
    tensors["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    return tensors


def model_bin(tensors: dict[str, np.ndarray], version: int = 6) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(tensors))]
    for name, tensor in tensors.items():
        sizes = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        kind = struct.pack("<BI", _TYPES[str(tensor.dtype)], tensor.nbytes)
        parts += [text(name), sizes, kind, tensor.tobytes()]
    aliases = text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return b"".join([*parts, struct.pack("<I", 1), aliases])
