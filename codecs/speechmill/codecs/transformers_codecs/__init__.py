"""Mimi, EnCodec and DAC as transformers computes them: the baselines of the papers.

Défossez et al., "Moshi", arXiv 2410.00037 (Mimi), and "High Fidelity Neural Audio Compression",
arXiv 2210.13438 (EnCodec); Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN",
arXiv 2306.06546 (DAC). transformers lets padding leak into a clip, so clips are computed one by one
on a CPU, and elsewhere with those of the same length.

The family "transformers" takes any `config.json` of these three as `config`, and as `checkpoint`
also a folder that transformers wrote, or hf://owner/repo. Option beside those: `num_codebooks`,
to encode to the first ones only. By default they are 8, or all where there are fewer. EnCodec at
48 kHz is left out: its codes say nothing without a loudness per second, which tokens do not hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.errors import MissingDependency
from speechmill.codecs.family import UNTRAINED_SEED, Card, CodecFamily, identity
from speechmill.codecs.fetch import fetch
from speechmill.codecs.transformers_codecs.config import VARIANTS, TransformersConfig, configured

if TYPE_CHECKING:
    import torch

_ALGORITHM = 1  # raised when the same weights give other codes
_WEIGHTS = "model.safetensors"


def info(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    num_codebooks: int | None = None,
) -> CodecInfo:
    """Return the facts; the name is recorded as it was given."""
    sizes = _sizes(name, checkpoint, config, num_codebooks)
    return CodecInfo(
        name=name,
        **identity("transformers", _ALGORITHM, sizes, {"checkpoint": _file(checkpoint)}),
        sample_rate=sizes.sample_rate,
        output_sample_rate=sizes.sample_rate,
        hop_length=sizes.hop_length,
        frame_offset=sizes.hop_length - 1,
        min_frames=1,
        codebook_sizes=(sizes.codebook_size,) * sizes.num_codebooks,
        num_semantic_codebooks=sizes.semantic_codebooks,
        missing_samples=sizes.missing_samples,
    )


def load(
    name: str,
    *,
    checkpoint: str | None,
    config: dict[str, Any] | None,
    device: torch.device,
    precision: str,
    num_codebooks: int | None = None,
) -> Codec:
    """Return the codec, with random weights where there is no checkpoint."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f"{name} is computed by transformers; pip install 'speechmill[baselines]'"
        ) from error
    from speechmill.codecs.transformers_codecs.codec import TransformersCodec
    from speechmill.codecs.transformers_codecs.weights import build, build_untrained

    sizes, file = _sizes(name, checkpoint, config, num_codebooks), _file(checkpoint)
    network = build_untrained(sizes, UNTRAINED_SEED) if file is None else build(sizes, fetch(file))
    facts = info(name, checkpoint=checkpoint, config=config, num_codebooks=num_codebooks)
    return TransformersCodec(network, sizes, facts, device=device, precision=precision)


def _sizes(
    name: str, checkpoint: str | None, config: dict[str, Any] | None, num_codebooks: int | None
) -> TransformersConfig:
    """Return the sizes of the variant, with what `config` or the checkpoint's folder says."""
    beside = None if checkpoint is None else Path(checkpoint) / "config.json"
    if config is None and beside is not None and beside.is_file():
        config = json.loads(beside.read_text())
    return configured({**VARIANTS.get(name, {}), **(config or {})}, num_codebooks)


def _file(checkpoint: str | None) -> str | None:
    """Return the file of weights; a folder of transformers and a repository hold one."""
    if checkpoint is None:
        return None
    is_repository = checkpoint.startswith("hf://") and checkpoint.count("/") == 3
    if is_repository or Path(checkpoint).is_dir():
        return f"{checkpoint}/{_WEIGHTS}"
    return checkpoint


CARDS = {
    "mimi": Card(
        parameters=96_085_825,
        paper="arXiv 2410.00037",
        licence="CC-BY-4.0",
        files={"checkpoint": f"hf://kyutai/mimi/{_WEIGHTS}"},
    ),
    "encodec-24khz": Card(
        parameters=19_041_121,
        paper="arXiv 2210.13438",
        files={"checkpoint": f"hf://facebook/encodec_24khz/{_WEIGHTS}"},
    ),
    "dac-16khz": Card(
        parameters=74_141_697,
        paper="arXiv 2306.06546",
        licence="MIT",
        files={"checkpoint": f"hf://descript/dac_16khz/{_WEIGHTS}"},
    ),
    "dac-24khz": Card(
        parameters=74_653_857,
        paper="arXiv 2306.06546",
        licence="MIT",
        files={"checkpoint": f"hf://descript/dac_24khz/{_WEIGHTS}"},
    ),
    "dac-44khz": Card(
        parameters=76_620_777,
        paper="arXiv 2306.06546",
        licence="MIT",
        files={"checkpoint": f"hf://descript/dac_44khz/{_WEIGHTS}"},
    ),
}
FAMILY = CodecFamily(
    variants=tuple(VARIANTS),
    info=info,
    load=load,
    options=frozenset({"num_codebooks"}),
    cards=CARDS,
)
