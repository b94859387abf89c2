"""DNSMOS P.835: a network predicts how listeners would rate speech, without a reference.

Reddy, Gopal, Cutler: "DNSMOS P.835", ICASSP 2022, arXiv 2110.01763. The model is
`sig_bak_ovr.onnx` of microsoft/DNS-Challenge (CC BY 4.0), a path or URL that the user gives.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from speechmill.codecs.fetch import fetch
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.imports import load_extra
from speechmill.pipeline.quality import RATE

_WINDOW = 144_160  # samples of one input of the network: 9.01 s
_HOP = RATE
# Polynomials from raw scores to the scale of listeners, highest power first.
_FIT = {
    "sig": np.poly1d([-0.08397278, 1.22083953, 0.0052439]),
    "bak": np.poly1d([-0.13166888, 1.60915514, -0.39604546]),
    "ovr": np.poly1d([-0.06766283, 1.11546468, 0.04602535]),
}


@dataclass(frozen=True, slots=True)
class Dnsmos:
    """Mean opinion scores from 1 to 5."""

    sig: float  # the speech itself
    bak: float  # how little the background disturbs
    ovr: float  # overall


def dnsmos(audio_T: Samples, model: str) -> Dnsmos:
    """Rate a clip at 16 kHz: the mean over windows of 9.01 s, one per second.

    A shorter clip is repeated until it fills a window, as in the authors' script. `model` is a path
    or URL, loaded once in a process. Raises `CheckpointError` if it cannot be fetched.
    """
    session = _session(model)
    raw_N3 = session.run(None, {session.get_inputs()[0].name: _windows(audio_T)})[0]
    scores = {name: float(fit(raw_N3[:, i]).mean()) for i, (name, fit) in enumerate(_FIT.items())}
    return Dnsmos(**scores)


def _windows(audio_T: Samples) -> Samples:
    audio_T = audio_T.astype(np.float32, copy=False)
    audio_T = np.tile(audio_T, -(-_WINDOW // len(audio_T)))
    count = (len(audio_T) - _WINDOW) // _HOP + 1
    return np.stack([audio_T[i * _HOP : i * _HOP + _WINDOW] for i in range(count)])


@cache
def _session(model: str) -> Any:
    onnxruntime = load_extra("onnxruntime", "evaluate")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = str(fetch(model))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
