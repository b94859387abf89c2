"""Write a checkpoint of Whisper whose matrices are in random order: `shuffled.py WHISPER OUTPUT`.

Vectors, which are biases and norms, are kept, and so is the distribution of each matrix's values.
"""

import sys

import torch
from safetensors.torch import load_file, save_file


def main(whisper: str, output: str) -> None:
    """Shuffle every tensor of at least two dimensions."""
    generator = torch.Generator().manual_seed(0)
    state = load_file(whisper)
    for name, values in state.items():
        if values.ndim > 1:
            order = torch.randperm(values.numel(), generator=generator)
            state[name] = values.flatten()[order].view_as(values)
    save_file(state, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
