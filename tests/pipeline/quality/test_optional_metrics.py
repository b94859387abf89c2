"""Metrics of packages that are extras of their own, against these packages."""

import numpy as np
import pytest

from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.scoring import Scorer
from speechmill.pipeline.quality.signal import visqol
from tests.corpus import tone

NEEDS_VISQOL = "ViSQOL is in the extra visqol"
NOISE = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
SPOILED = NOISE + np.random.default_rng(1).normal(0, 0.05, RATE).astype(np.float32)


@pytest.mark.parametrize("seconds", [1, 9])  # the network takes 7.68 s
def test_distillmos_is_that_of_its_package(seconds):
    library = pytest.importorskip("distillmos", reason="DistillMOS is in the extra distillmos")
    import torch

    audio_T = tone(seconds).astype(np.float32)
    with torch.inference_mode():
        expected = float(library.ConvTransformerSQAModel().eval()(torch.from_numpy(audio_T)[None]))
    scores = Scorer([], None, with_distillmos=True)(None, audio_T)
    assert scores == {"distillmos": pytest.approx(expected, abs=1e-4)}


def test_visqol_is_that_of_its_package_in_speech_mode():
    library = pytest.importorskip("visqol", reason=NEEDS_VISQOL)
    pytest.importorskip("ai_edge_litert", reason=NEEDS_VISQOL)
    api = library.VisqolApi()
    api.create(mode="speech", use_lattice_model=True)
    expected = api.measure_from_arrays(NOISE, SPOILED, RATE).moslqo
    assert visqol(NOISE, SPOILED) == pytest.approx(expected, abs=1e-4)
    assert visqol(NOISE, NOISE) > visqol(NOISE, SPOILED)


def test_visqol_is_not_defined_for_silence_and_short_clips():
    pytest.importorskip("visqol", reason=NEEDS_VISQOL)
    pytest.importorskip("ai_edge_litert", reason=NEEDS_VISQOL)
    silence = np.zeros_like(NOISE)
    pairs = [(silence, NOISE), (NOISE, silence), (NOISE[:1], NOISE[:1]), (NOISE[:8000],) * 2]
    assert [visqol(*pair) for pair in pairs] == [None] * 4
