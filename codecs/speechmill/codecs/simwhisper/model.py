"""The network of SimWhisper-Codec: a Whisper encoder that keeps the voice, FSQ, a Vocos decoder.

The parts come from arXiv 2510.20504, their sizes from the authors' configuration.
"""

from torch import Tensor, nn

from speechmill.codecs.nn.convnext import ConvNeXtBackbone
from speechmill.codecs.nn.fsq import GroupedFSQ
from speechmill.codecs.nn.masks import mask_padding_frames
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.spectra import ISTFTHead
from speechmill.codecs.nn.whisper.layers import WhisperLayer, attention_bias, convolve
from speechmill.codecs.nn.whisper.log_mel import LogMel, num_columns
from speechmill.codecs.nn.whisper.sizes import MEL_HOP, STRIDE, WINDOW_SAMPLES
from speechmill.codecs.simwhisper.config import SimWhisperConfig
from speechmill.codecs.simwhisper.frame_stack import FrameStackDown, FrameStackUp


class SimWhisperNetwork(nn.Module):
    """Everything in a checkpoint."""

    def __init__(self, config: SimWhisperConfig) -> None:
        super().__init__()
        dim, stack, hidden_dim = config.dim, config.stack, config.hidden_dim
        self.max_latents = -(-WINDOW_SAMPLES // config.hop_length)
        self.log_mel = LogMel(config.num_mels, config.mel_n_fft)
        self.acoustic_encoder = AcousticEncoder(config)
        self.downsample = FrameStackDown(dim, stack, hidden_dim, config.latent_dim)
        self.quantizer = GroupedFSQ(config.num_groups, config.levels, config.fsq_eps)
        self.upsample = FrameStackUp(config.latent_dim, hidden_dim, stack, dim)
        self.acoustic_decoder = AcousticDecoder(config)
        self.vocos = Vocos(config)

    def latents(self, audio_BT: Tensor, num_latents: int, lengths_B: Tensor | None) -> Tensor:
        """Return the first `num_latents` columns of latent_BDF, before quantization.

        `audio_BT` is a window of at most 30 s, zero after each row's end. Columns after a row's end
        are those of silence.
        """
        mel_BMT = self.log_mel(audio_BT)
        h_BTD = self.acoustic_encoder(mel_BMT, *_frames(audio_BT, lengths_B))
        latent_BDF: Tensor = self.downsample(h_BTD, num_latents, self.max_latents)
        return latent_BDF

    def encode(self, audio_BT: Tensor, num_latents: int, lengths_B: Tensor | None = None) -> Tensor:
        """Return codes_BKF of `num_latents` columns; for the arguments see `latents`."""
        return self.quantizer.encode(self.latents(audio_BT, num_latents, lengths_B))

    def decode(self, codes_BKF: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT of hop_length samples per column of at most 30 s."""
        return self.synthesize(self.quantizer.decode(codes_BKF), lengths_B)

    def synthesize(self, x_BDF: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return audio_BT of quantized latents."""
        h_BTD = self.upsample(x_BDF, lengths_B)
        h_lengths_B = None if lengths_B is None else lengths_B * self.upsample.stack
        mel_BTM = self.acoustic_decoder(h_BTD, h_lengths_B)
        audio_BT: Tensor = self.vocos(
            mel_BTM, None if h_lengths_B is None else h_lengths_B * STRIDE
        )
        return audio_BT


class AcousticEncoder(nn.Module):
    """mel_BMT of 100 Hz to h_BTD of 50 Hz.

    It is Whisper's encoder (arXiv 2212.04356, section 2.2) without positions and without the
    activations of its convolutions: both cost acoustic detail (arXiv 2510.20504).
    """

    def __init__(self, config: SimWhisperConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_mels, config.dim, 3)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=STRIDE)
        self.layers = nn.ModuleList(
            WhisperLayer(config.dim, config.encoder_heads, config.encoder_ffn)
            for _ in range(config.encoder_layers)
        )
        self.layer_norm = LayerNorm(config.dim)

    def forward(self, mel_BMT: Tensor, num_frames: int, lengths_B: Tensor | None) -> Tensor:
        """Return h_BTD of `num_frames`, zero after each row's `lengths_B`."""
        h_BTD = convolve(mel_BMT, num_frames, self.conv1, self.conv2)
        return _transform(h_BTD, self.layers, self.layer_norm, lengths_B)


class AcousticDecoder(nn.Module):
    """h_BTD of 50 Hz to mel_BTM of 100 Hz, as many channels as the log-mel spectrogram.

    Its convolutions are causal, so that a row's end needs no mask.
    """

    def __init__(self, config: SimWhisperConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            WhisperLayer(config.dim, config.decoder_heads, config.decoder_ffn)
            for _ in range(config.decoder_layers)
        )
        self.layer_norm = LayerNorm(config.dim)
        self.deconv1 = nn.ConvTranspose1d(config.dim, config.dim, 3, stride=STRIDE)
        self.deconv2 = nn.ConvTranspose1d(config.dim, config.num_mels, 3)

    def forward(self, h_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        columns = h_BTD.shape[1] * STRIDE
        h_BTD = _transform(h_BTD, self.layers, self.layer_norm, lengths_B)
        mel_BMT: Tensor = self.deconv2(self.deconv1(h_BTD.transpose(1, 2)))
        return mel_BMT[..., :columns].transpose(1, 2)


class Vocos(nn.Module):
    """mel_BTM of 100 Hz to audio_BT (arXiv 2306.00814)."""

    def __init__(self, config: SimWhisperConfig) -> None:
        super().__init__()
        self.backbone = ConvNeXtBackbone(
            config.num_mels, config.vocos_dim, config.vocos_ffn, config.vocos_layers
        )
        self.head = ISTFTHead(config.vocos_dim, config.vocos_n_fft, MEL_HOP)

    def forward(self, mel_BTM: Tensor, lengths_B: Tensor | None) -> Tensor:
        audio_BT: Tensor = self.head(self.backbone(mel_BTM, lengths_B), lengths_B)
        return audio_BT


def _frames(audio_BT: Tensor, lengths_B: Tensor | None) -> tuple[int, Tensor | None]:
    """Return the encoder's frames for the longest row and for each."""
    num_frames = num_columns(audio_BT.shape[-1]) // STRIDE
    if lengths_B is None:
        return num_frames, None
    return num_frames, num_columns(lengths_B) // STRIDE


def _transform(
    h_BTD: Tensor, layers: nn.ModuleList, layer_norm: LayerNorm, lengths_B: Tensor | None
) -> Tensor:
    """Return h_BTD after the layers and a norm, zero after each row's end."""
    bias_B11T = attention_bias(h_BTD, lengths_B)
    for layer in layers:
        h_BTD = layer(h_BTD, bias_B11T)
    h_BTD = layer_norm(h_BTD)
    return h_BTD if lengths_B is None else mask_padding_frames(h_BTD, lengths_B)
