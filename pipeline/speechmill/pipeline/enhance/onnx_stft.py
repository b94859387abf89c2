"""Any ONNX model that takes one frame of a spectrum at a time and keeps states between frames.

UL-UNAS is one: Rong et al., "UL-UNAS: Ultra-Lightweight U-Nets for Real-Time Speech Enhancement",
arXiv 2503.00340; the weights are those of Xiaobin-Rong/ul-unas, `ulunas_stream_simple.onnx` (MIT).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from speechmill.codecs.errors import CheckpointError
from speechmill.codecs.fetch import digest, fetch
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.enhance.api import EnhancerSettings, enhancer_revision
from speechmill.pipeline.enhance.stft import Spectrum, Stft
from speechmill.pipeline.imports import load_extra

_ALGORITHM = 1  # raised when the same weights give another result


class OnnxStft:
    """Runs the model frame by frame.

    Spectra have shape [1, bins, 1, 2], real and imaginary; states begin with zeros.
    """

    def __init__(self, settings: EnhancerSettings):
        assert settings.model
        path = fetch(settings.model)
        self.name = settings.name
        self.sample_rate = settings.sample_rate
        facts = asdict(settings)
        del facts["model"]  # its content counts, not its location
        self.revision = enhancer_revision(algorithm=_ALGORITHM, weights=digest(path), **facts)
        self._stft = Stft(settings.n_fft, settings.hop, settings.window)
        self._session = _load(str(path))
        self._bind(settings)

    @classmethod
    def ul_unas(cls, settings: EnhancerSettings) -> "OnnxStft":
        """The published streaming model, 16 kHz."""
        return cls(EnhancerSettings(name="ul-unas", model=settings.model))

    def enhance(self, audio_T: Samples) -> Samples:
        """Return audio of the same length, aligned to the sample."""
        return np.concatenate(list(self.stream([audio_T])))

    def stream(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield what `enhance` returns for the joined blocks, each frame as soon as it is done."""
        return self._stft.through(blocks, _Clip(self).process)

    def _bind(self, settings: EnhancerSettings) -> None:
        """Find the graph's inputs and outputs; raises a `CheckpointError` that names both."""
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        self.spectrum = settings.spectrum or next(iter(inputs))
        self.enhanced = settings.enhanced or outputs[0]
        others = [name for name in inputs if name != self.spectrum]
        rest = [name for name in outputs if name != self.enhanced]
        self.states = settings.states or dict(zip(others, rest, strict=False))
        bins = self._stft.n_fft // 2 + 1
        if (
            inputs.get(self.spectrum) != [1, bins, 1, 2]
            or set(self.states) != set(others)
            or not {self.enhanced, *self.states.values()} <= set(outputs)
        ):
            raise CheckpointError(
                f"{settings.model!r} has inputs {inputs} and outputs {outputs}; expected "
                f"{self.spectrum} [1, {bins}, 1, 2], {self.enhanced} and the states {self.states}"
            )
        self.shapes = {name: inputs[name] for name in others}

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = [self.enhanced, *self.states.values()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))


class _Clip:
    """The states of one clip."""

    def __init__(self, model: OnnxStft):
        self.model = model
        self.states = {n: np.zeros(shape, np.float32) for n, shape in model.shapes.items()}

    def process(self, spectrum_F: Spectrum) -> Spectrum:
        given = np.stack([spectrum_F.real, spectrum_F.imag], axis=-1)[None, :, None]
        outputs = self.model.run({self.model.spectrum: given, **self.states})
        self.states = {name: outputs[new] for name, new in self.model.states.items()}
        enhanced = outputs[self.model.enhanced][0, :, 0]
        return np.asarray(enhanced[:, 0] + 1j * enhanced[:, 1], np.complex64)


def _load(path: str) -> Any:
    """One thread: sums keep their order, and a model this small gains nothing from more."""
    onnxruntime = load_extra("onnxruntime", "enhance")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many classes without a public base class
        raise CheckpointError(f"{path!r} cannot be loaded as ONNX: {error}") from error
