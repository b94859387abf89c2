"""A random Whisper in a file that has transformers' names and is in half precision."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from speechmill.codecs.simwhisper.config import SimWhisperConfig
from speechmill.codecs.simwhisper.model import AcousticEncoder


def whisper_file(folder: Path, sizes: SimWhisperConfig, seed: int = 3) -> Path:
    """Write the encoder, with its positions and one weight of a decoder."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    weights = AcousticEncoder(sizes).state_dict()
    torch.set_rng_state(state)
    named = {f"model.encoder.{name}": value.half() for name, value in weights.items()}
    named["model.encoder.embed_positions.weight"] = torch.zeros(1_500, sizes.dim).half()
    named["model.decoder.layer_norm.weight"] = torch.ones(sizes.dim).half()
    save_file(named, folder / "whisper.safetensors")
    return folder / "whisper.safetensors"
