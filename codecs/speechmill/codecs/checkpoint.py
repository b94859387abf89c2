"""Load checkpoints into networks, strictly, with or without weight norm."""

import pickle
import struct
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.overrides import TorchFunctionMode

from speechmill.codecs.errors import CheckpointError

NetworkT = TypeVar("NetworkT", bound=nn.Module)

_READ_FAULTS = (
    SafetensorError,
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
_DRAWING = {
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.trunc_normal_,
    nn.init.uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
    Tensor.normal_,
    Tensor.uniform_,
}
_SHOWN = 10  # keys of each kind that an error lists


def allocate(build: Callable[[], NetworkT]) -> NetworkT:
    """Return a network for inference without initialising its weights, which saves time.

    It is not built on the meta device, because PyTorch loads its compiler for some operations
    there, which takes longer than building most networks.
    """
    with _NothingDrawn():
        network = build()
    return network.requires_grad_(False).eval()


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are instead of filling them with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def read_state_dict(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file, on the CPU.

    `key` names the entry of a PyTorch file that holds the weights, if there is one. Raises
    `CheckpointError`, also if a pickle would run code, and for weights that are NaN or infinite.
    """
    state = _read(path)
    if key is not None and isinstance(state, dict) and key in state:
        state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{str(path)!r} holds {_describe(state)}, not a dict of tensors")
    _refuse_non_finite(state, path)
    return dict(state)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_FAULTS as error:
        raise CheckpointError(f"cannot read {str(path)!r} as a file of weights: {error}") from error


def _refuse_non_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise `CheckpointError` for weights that make every code of a codec the same."""
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise CheckpointError(
            f"{str(path)!r} holds NaN or infinite weights {_first(broken)}; name another checkpoint"
        )


def _is_finite(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool((value.float() if value.itemsize == 1 else value).isfinite().all())


def load_strict(network: nn.Module, state: Mapping[str, Tensor], source: str = "state") -> None:
    """Load `state` into `network`; raises a `CheckpointError` that lists all misfits."""
    own = network.state_dict()
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    refuse_misfits(
        source,
        missing=sorted(own.keys() - state.keys()),
        unexpected=sorted(state.keys() - own.keys()),
        misshapen=misshapen,
    )
    network.load_state_dict(dict(state))


def fold_weight_norm(network: nn.Module) -> None:
    """Replace every weight-normed weight by its value: faster, but not trainable as such."""
    for module in network.modules():
        if is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight")


def load_folded(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a checkpoint of training or of inference, strictly, and leave the weights folded.

    Training keeps the two factors of every weight-normed weight; here they are multiplied.
    """
    if any(".parametrizations." in key for key in state):
        load_strict(network, state, source)
        fold_weight_norm(network)
    else:
        fold_weight_norm(network)
        load_strict(network, state, source)


def merge_weight_norm(direction: Tensor, length: Tensor) -> Tensor:
    """Return the weight that two factors make (weight norm, arXiv 1602.07868, eq. 2).

    The norm is over the dimensions in which `length` has one element.
    """
    dims = [dim for dim, size in enumerate(length.shape) if size == 1]
    norm: Tensor = direction.norm(dim=dims, keepdim=True)
    return direction * (length / norm)


def load_unfolded(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a checkpoint of training or of inference, strictly, and leave the weights trainable."""
    if any(".parametrizations." in key for key in state):
        load_strict(network, state, source)
        return
    folded = deepcopy(network)
    fold_weight_norm(folded)
    load_strict(folded, state, source)
    for name, module in network.named_modules():
        if is_parametrized(module, "weight"):
            module.weight = folded.get_submodule(name).weight
    # the rest; weight-normed weights, loaded above, have other names here
    network.load_state_dict(folded.state_dict(), strict=False)


def refuse_misfits(source: str, **faults: list[str]) -> None:
    """Raise a `CheckpointError` that lists the first keys of each kind, if there are any."""
    lines = [f"{kind} {_first(keys)}" for kind, keys in faults.items() if keys]
    if lines:
        raise CheckpointError(f"{source} does not fit the network: " + "; ".join(lines))


def _first(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"({len(keys)}): {', '.join(keys[:_SHOWN])}{more}"


def _describe(state: Any) -> str:
    if isinstance(state, dict):
        return f"a dict with the keys {[str(key) for key in list(state)[:_SHOWN]]}"
    return f"a {type(state).__name__}"
