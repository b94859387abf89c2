"""Mimi, EnCodec and DAC as transformers computes them: the baselines of the papers.

Défossez et al., "Moshi", arXiv 2410.00037 (Mimi), and "High Fidelity Neural Audio Compression",
arXiv 2210.13438 (EnCodec); Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN",
arXiv 2306.06546 (DAC). In transformers padding changes a clip's codes, so clips are computed one by
one on a CPU, and on other devices together with clips of the same length.

The family "transformers" takes any `config.json` of these three as `config`, and as `checkpoint`
also a folder in transformers' format, or hf://owner/repo. EnCodec at 48 kHz is not supported: its
codes are useless without a loudness per second, which token datasets do not store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.config import read_config
from speechmill.codecs.errors import MissingDependency
from speechmill.codecs.family import UNTRAINED_SEED, Config, NetworkFamily, Request
from speechmill.codecs.transformers_codecs.config import (
    CARDS,
    VARIANTS,
    WEIGHTS,
    TransformersConfig,
    read_transformers_config,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersOptions:
    """Encode returns codes of the first `num_codebooks`; None: 8, or all if there are fewer."""

    num_codebooks: int | None = None


TransformersRequest = Request[TransformersConfig, TransformersOptions]


class TransformersFamily(NetworkFamily[TransformersConfig, TransformersOptions]):
    """Facts and networks of transformers' codecs, which cannot be trained here."""

    def read_sizes(
        self, name: str, config: Config, checkpoint: str | None, options: TransformersOptions
    ) -> TransformersConfig:
        """Return the sizes of the variant, replaced by `config` or the folder's config.json."""
        if config is None and checkpoint is not None:
            path = Path(checkpoint) / "config.json"
            config = read_config(path) if path.is_file() else None
        values = {**VARIANTS.get(name, {}), **(config or {})}
        return read_transformers_config(values, options.num_codebooks)

    def files(
        self, sizes: TransformersConfig, checkpoint: str | None, options: TransformersOptions
    ) -> Mapping[str, str | Path | None]:
        """Return the file of weights, also if the checkpoint is a folder or a repository."""
        if checkpoint is not None:
            is_repository = checkpoint.startswith("hf://") and checkpoint.count("/") == 3
            if is_repository or Path(checkpoint).is_dir():
                checkpoint = f"{checkpoint}/{WEIGHTS}"
        return {"checkpoint": checkpoint}

    def describe(self, request: TransformersRequest) -> CodecInfo:
        sizes = request.sizes
        return CodecInfo(
            name=request.name,
            **self.identify(request),
            sample_rate=sizes.sample_rate,
            output_sample_rate=sizes.sample_rate,
            hop_length=sizes.hop_length,
            frame_offset=sizes.hop_length - 1,
            min_frames=1,
            codebook_sizes=(sizes.codebook_size,) * sizes.num_codebooks,
            num_semantic_codebooks=sizes.semantic_codebooks,
            missing_samples=sizes.missing_samples,
        )

    def build(self, request: TransformersRequest, info: CodecInfo, **execution: Any) -> Codec:
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingDependency(
                f"{request.name} is computed by transformers; pip install 'speechmill[baselines]'"
            ) from error
        from speechmill.codecs.transformers_codecs.codec import TransformersCodec
        from speechmill.codecs.transformers_codecs.weights import (
            read_transformers,
            untrained_transformers,
        )

        sizes, path = request.sizes, request.path()
        if path is None:
            network = untrained_transformers(sizes, UNTRAINED_SEED)
        else:
            network = read_transformers(sizes, path)
        return TransformersCodec(network, sizes, info, **execution)


FAMILY = TransformersFamily(
    "transformers",
    sizes=TransformersConfig,
    variants=VARIANTS,
    options=TransformersOptions,
    cards=CARDS,
    packages=("transformers",),
)
