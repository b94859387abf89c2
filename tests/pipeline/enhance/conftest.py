"""Enhancers for tests: small ones made here, and published ones if their weights are present."""

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper

from speechmill.pipeline.enhance.api import EnhancerSettings, load_enhancer
from speechmill.pipeline.enhance.gtcrn import GtcrnNetwork
from tests.conftest import REPOSITORY

PAIRS = REPOSITORY.parent / "shared" / "data" / "pairs"


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory):
    """A streaming model that subtracts half of the previous frame from every frame."""
    frame, half = [1, 257, 1, 2], helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("Mul", ["before", "half"], ["removed"]),
        helper.make_node("Sub", ["mix", "removed"], ["enh"]),
        helper.make_node("Identity", ["mix"], ["now"]),
    ]
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, frame) for n in _NAMES}
    graph = helper.make_graph(
        nodes, "tiny", [values["mix"], values["before"]], [values["enh"], values["now"]], [half]
    )
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


_NAMES = ("mix", "before", "enh", "now")


@pytest.fixture(scope="session")
def open_gtcrn(tmp_path_factory):
    """A checkpoint in the published layout whose mask lets nearly everything pass."""
    torch.manual_seed(0)
    state = GtcrnNetwork().state_dict()
    state["erb.ierb_fc.weight"].fill_(1 / 64)
    state["decoder.de_convs.4.bn.weight"].zero_()
    state["decoder.de_convs.4.bn.bias"].copy_(torch.tensor([5.0, 0.0]))
    path = tmp_path_factory.mktemp("gtcrn") / "model.tar"
    torch.save({"epoch": 1, "model": state}, path)
    return path


@pytest.fixture(scope="session")
def published(models):
    """The two published enhancers."""
    weights = {
        "ul-unas": models / "ul-unas" / "ulunas_stream_simple.onnx",
        "gtcrn": models / "gtcrn" / "model_trained_on_dns3.tar",
    }
    return {name: load_enhancer(EnhancerSettings(name, str(p))) for name, p in weights.items()}


@pytest.fixture(params=["spectral-gating", "onnx", "gtcrn"])
def enhancer(request, tiny_onnx, open_gtcrn):
    weights = {"onnx": str(tiny_onnx), "gtcrn": str(open_gtcrn)}.get(request.param)
    return load_enhancer(EnhancerSettings(request.param, weights))


@pytest.fixture(scope="session")
def noisy_pairs():
    """A few recordings with noise and without it, as (clean, noisy) at 16 kHz."""
    if not PAIRS.is_dir():
        pytest.skip("no pairs at ../shared/data/pairs beside the checkout")
    pairs = []
    for clean in sorted(PAIRS.glob("clean/dns_test/*.flac"))[:4]:
        noisy = PAIRS / "noisy" / "dns_test" / clean.name
        both = [soundfile.read(path, dtype="float32")[0][: 4 * 16_000] for path in (clean, noisy)]
        pairs.append(tuple(np.ascontiguousarray(audio) for audio in both))
    return pairs
