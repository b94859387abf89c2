"""The sizes of WavLM and HuBERT."""

from dataclasses import dataclass
from math import prod

from speechmill.codecs.config import receptive_field


@dataclass(frozen=True, kw_only=True, slots=True)
class WavLMSizes:
    """The sizes of the layers, and the differences between the models."""

    conv_dims: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    num_layers: int
    dim: int
    ffn_dim: int
    heads: int
    positions_kernel: int
    positions_groups: int
    num_buckets: int | None  # of relative positions; None: HuBERT has none
    max_distance: int
    eps: float = 1e-5
    conv_bias: bool = False
    time_norm: bool = False  # base models norm only the first convolution, over time
    norm_first: bool = True  # base models norm after attention and perceptron
    short_rows: bool = False  # zeros pad rows that are too short for a frame
    causal: bool = False
    window: int = 0  # frames that a causal frame attends to
    chunk: int = 1  # causal frames that attend to each other

    @property
    def hop_length(self) -> int:
        """Samples per feature frame."""
        return prod(self.strides)

    @property
    def first_samples(self) -> int:
        """Number of samples that the first frame needs."""
        return 1 if self.causal else receptive_field(self.kernels, self.strides)
