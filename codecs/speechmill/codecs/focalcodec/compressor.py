"""Features to latents and back (FocalCodec, arXiv 2502.04465, section 3)."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.focalcodec.config import CompressorConfig, DecompressorConfig, FocalConfig
from speechmill.codecs.focalcodec.focal import FocalBlock
from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory, Padding
from speechmill.codecs.nn.masks import mask_padding_frames
from speechmill.codecs.nn.snake import Snake


class Compressor(nn.Module):
    """features_BFC to latents_BND."""

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        widths = zip(
            (config.input_dim, *config.hidden_dims),
            config.hidden_dims,
            config.downscale_factors,
            strict=False,
        )
        self.layers = nn.ModuleList(FocalDownStage(config, *width) for width in widths)
        self.out_proj = nn.Linear(config.hidden_dims[-1], config.output_dim)

    def forward(
        self, x_BFC: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        for layer in self.layers:
            x_BFC, lengths_B = layer(x_BFC, lengths_B, memory)
        latents_BND: Tensor = self.out_proj(x_BFC)
        return latents_BND


class FocalDownStage(nn.Module):
    """A convolution that merges `factor` frames, a Snake, a focal block."""

    def __init__(self, config: FocalConfig, width: int, out_width: int, factor: int) -> None:
        super().__init__()
        self.downscale = DownScale(width, out_width, factor, causal=config.causal)
        self.focal_block = _focal_block(config, out_width, config.window_size)

    def forward(
        self, x_BFC: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        x_BFC = self.downscale(x_BFC, lengths_B, memory)
        if lengths_B is not None:
            factor = self.downscale.factor
            lengths_B = (lengths_B + factor - 1) // factor
        return self.focal_block(x_BFC, lengths_B, memory), lengths_B


class DownScale(nn.Module):
    """F frames become ceil(F / factor): padding fills the last group, or if causal the first."""

    def __init__(self, width: int, out_width: int, factor: int, *, causal: bool) -> None:
        super().__init__()
        padding: Padding = "replicate" if causal else "valid"
        self.factor = factor
        self.downscale = FrameConv1d(width, out_width, factor, stride=factor, padding=padding)
        self.activation = Snake(out_width, 1)

    def forward(self, x_BFC: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Tensor:
        if self.downscale.edges == "valid" and self.factor > 1:
            if lengths_B is not None:
                x_BFC = mask_padding_frames(x_BFC, lengths_B)
            x_BFC = F.pad(x_BFC, (0, 0, 0, -x_BFC.shape[1] % self.factor))
        y_BFC: Tensor = self.activation(self.downscale(x_BFC, memory=memory))
        return y_BFC


class Decompressor(nn.Module):
    """Code vectors_BND to features_BFC."""

    def __init__(self, config: DecompressorConfig) -> None:
        super().__init__()
        widths = list(
            zip(
                config.hidden_dims,
                (*config.hidden_dims[1:], config.output_dim),
                config.upscale_factors,
                strict=True,
            )
        )
        windows = [config.window_size] * (len(widths) - 1) + [config.last_window_size]
        self.in_proj = nn.Linear(config.input_dim, config.hidden_dims[0])
        self.layers = nn.ModuleList(
            FocalUpStage(config, *width, window)
            for width, window in zip(widths, windows, strict=True)
        )
        refined = config.causal and config.lookahead_size > 0
        chunk = 1 + config.lookahead_size
        self.refiner = Refiner(config.output_dim, chunk) if refined else None

    def forward(
        self, z_BND: Tensor, lengths_B: Tensor | None = None, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return features_BFC and each row's frames."""
        x_BFC = self.in_proj(z_BND)
        for layer in self.layers:
            x_BFC, lengths_B = layer(x_BFC, lengths_B, memory)
        return x_BFC if self.refiner is None else self.refiner(x_BFC, lengths_B), lengths_B


class FocalUpStage(nn.Module):
    """A focal block, a Snake, and each frame becomes `factor` frames."""

    def __init__(
        self, config: FocalConfig, width: int, out_width: int, factor: int, window_size: int
    ) -> None:
        super().__init__()
        self.focal_block = _focal_block(config, width, window_size)
        self.upscale = UpScale(width, out_width, factor)

    def forward(
        self, x_BFC: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        x_BFC = self.upscale(self.focal_block(x_BFC, lengths_B, memory))
        return x_BFC, None if lengths_B is None else lengths_B * self.upscale.factor


class UpScale(nn.Module):
    """Each frame on its own: the transposed convolution's kernel is as long as its stride."""

    def __init__(self, width: int, out_width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.activation = Snake(width, 1)
        self.upscale = nn.ConvTranspose1d(width, out_width, factor, stride=factor)

    def forward(self, x_BFI: Tensor) -> Tensor:
        weight_IKO = self.upscale.weight.transpose(1, 2)
        y_BFN: Tensor = self.activation(x_BFI) @ weight_IKO.flatten(1)
        bias_O = cast(Tensor, self.upscale.bias)
        return y_BFN.view(len(x_BFI), -1, len(bias_O)) + bias_O


class Refiner(nn.Module):
    """A perceptron over `chunk` frames at once, added to them; zeros pad the last chunk."""

    def __init__(self, dim: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.in_proj = nn.Linear(chunk * dim, chunk * dim)
        self.out_proj = nn.Linear(chunk * dim, chunk * dim)

    def forward(self, x_BFC: Tensor, lengths_B: Tensor | None) -> Tensor:
        frames, width = x_BFC.shape[1:]
        z_BFC = x_BFC if lengths_B is None else mask_padding_frames(x_BFC, lengths_B)
        z_BFC = F.pad(z_BFC, (0, 0, 0, -frames % self.chunk))
        z_BNW = z_BFC.reshape(len(x_BFC), -1, self.chunk * width)
        y_BNW: Tensor = self.out_proj(F.gelu(self.in_proj(z_BNW)))
        return x_BFC + y_BNW.view(len(x_BFC), -1, width)[:, :frames]


def _focal_block(config: FocalConfig, width: int, window_size: int) -> FocalBlock:
    return FocalBlock(
        width,
        window=config.focal_window,
        levels=config.focal_level,
        factor=config.focal_factor,
        causal=config.causal,
        window_size=window_size,
        normalize=config.normalize_modulator,
        post_norm=config.use_post_norm,
        layer_scale=config.use_layerscale,
    )
