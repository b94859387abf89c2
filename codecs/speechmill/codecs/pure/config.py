"""PURE Codec (arXiv 2511.22687): the sizes of the network and the variants that have a name."""

from dataclasses import dataclass, replace
from math import prod

from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.family import UNPUBLISHED, Card

BACKBONES = ("seanet", "frames", "subframes")
SUBFRAMES = 4  # of a frame, in the backbone of that name


@dataclass(frozen=True, kw_only=True, slots=True)
class PureConfig:
    """The network's sizes; the defaults are the first author's public configuration.

    `channels[i]` is the width before stride i, and the last entry the width of the LSTM. A
    checkpoint holds `num_stages` codebooks; encode returns codes of `num_codebooks` of them. With
    no LSTM layers the network is convolutional. The backbones "frames" and "subframes" are ours
    (see `pure.frames`): of the keys of "seanet" they use `kernel` and the product of the strides.
    """

    sample_rate: int = 16_000
    backbone: str = "seanet"
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    strides: tuple[int, ...] = (2, 4, 5, 8)
    dilations: tuple[int, ...] = (1, 2, 4)
    kernel: int = 7
    lstm_layers: int = 2
    width: int = 192  # of the blocks of "frames" and "subframes"
    inner_width: int = 576  # of their perceptrons
    depth: int = 6  # blocks of the encoder, and of the decoder
    window: int = 1024  # samples of the encoder's log-mel spectrum
    bands: int = 80  # of that spectrum
    dim: int = 512
    num_stages: int = 8
    num_codebooks: int = 8
    codebook_size: int = 1024
    num_searched: int = 1  # stages that search a separate table, see `ResidualQuantizer`

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise InvalidConfig(f"backbone is {self.backbone!r}; use one of {BACKBONES}")
        if self.backbone == "seanet" and len(self.channels) != len(self.strides) + 1:
            raise InvalidConfig(
                f"{len(self.channels)} channels for {len(self.strides)} strides; give one more"
            )
        sizes = [self.sample_rate, self.kernel, self.dim, self.codebook_size, self.lstm_layers + 1]
        sizes += [self.width, self.inner_width, self.depth, self.window, self.bands]
        if any(size < 1 for size in (*sizes, *self.channels, *self.strides, *self.dilations)):
            raise InvalidConfig(f"every size must be at least 1: {self}")
        if not 1 <= self.num_codebooks <= self.num_stages:
            raise InvalidConfig(
                f"num_codebooks is {self.num_codebooks}, must be 1 to num_stages={self.num_stages}"
            )
        if self.backbone != "seanet" and (
            self.window < 2 * self.hop_length or self.kernel % 2 == 0
        ):
            raise InvalidConfig(
                f"window is {self.window} and kernel {self.kernel}; {self.backbone} needs at least "
                f"two hops of {self.hop_length} samples and an odd kernel"
            )
        if self.backbone == "subframes" and self.hop_length % SUBFRAMES:
            raise InvalidConfig(
                f"subframes needs a hop of {SUBFRAMES}, {2 * SUBFRAMES}, … samples, "
                f"not {self.hop_length}"
            )
        if not 0 <= self.num_searched <= self.num_stages:
            raise InvalidConfig(
                f"num_searched is {self.num_searched}, must be 0 to num_stages={self.num_stages}"
            )

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return prod(self.strides)

    @property
    def context(self) -> tuple[int, int] | None:
        """As in `CodecInfo`: the LSTM remembers from the first frame on."""
        if self.backbone != "seanet":
            reach, outside = (self.depth + 1) * (self.kernel - 1), self.window - self.hop_length
            left, right = reach // 2 * self.hop_length, -(-reach // 2) * self.hop_length
            return left + outside // 2, right + outside - outside // 2
        if self.lstm_layers:
            return None
        layers = [(self.kernel, 1, 1)]  # kernel, dilation and stride, in order from the audio
        for stride in self.strides:
            layers += [(self.kernel, dilation, 1) for dilation in self.dilations]
            layers += [(2 * stride, 1, stride)]
        layers += [(self.kernel, 1, 1)]
        first = last = 0
        for kernel, dilation, stride in reversed(layers):
            right = ((kernel - 1) * dilation + 1 - stride) // 2  # as `nn.conv.PaddedConv1d` pads
            reach = (kernel - 1) * dilation
            first, last = (first + 1) * stride - 1 + right - reach, (last + 1) * stride - 1 + right
        return -first, last - (self.hop_length - 1)


_FULL = PureConfig()
_SMALL = PureConfig(backbone="subframes", strides=(320,), kernel=3, dim=64)

VARIANTS = {
    "pure-0.5k": replace(_FULL, num_codebooks=1),
    "pure-1k": replace(_FULL, num_codebooks=2),
    "pure-2k": replace(_FULL, num_codebooks=4),
    "pure-4k": _FULL,
    "pure-16k-small": _SMALL,
}

_PAPER = "arXiv 2511.22687"
_SMALL_FILE = (  # half precision, which float32 represents exactly
    "package://speechmill.codecs/pure/pure-16k-small.safetensors"
    "#sha256=de8b6425096fb0191307333c842e92ea19264166aa5d555df5e94897c3a7a760"
)
CARDS = {
    name: Card(parameters=24_937_377, paper=_PAPER, licence=UNPUBLISHED) for name in VARIANTS
}  # all but the small one use the first codebooks of one network
CARDS["pure-16k-small"] = Card(
    parameters=3_886_656, paper=_PAPER, licence="Apache-2.0", files={"checkpoint": _SMALL_FILE}
)
