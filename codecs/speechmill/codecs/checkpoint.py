"""From a checkpoint's file to weights in a network."""

import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
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
_SHOWN = 10  # keys of each kind in an error


def allocate(build: Callable[[], NetworkT]) -> NetworkT:
    """Return a network for inference whose weights are yet to be filled in.

    Nothing is drawn in vain. (Nor does it stand on the meta device meanwhile: some of what PyTorch
    does there makes it load its compiler, which takes longer than most networks.)
    """
    with _NothingDrawn():
        network = build()
    return network.requires_grad_(False).eval()


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are where they should be filled with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def read_state_dict(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file, on the CPU; a pickle may hold no code.

    `key` names the entry of a PyTorch file under which its author put the weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _READ_FAULTS as error:
        raise CheckpointError(f"cannot read {str(path)!r} as weights alone: {error}") from error
    if key is not None and isinstance(state, dict) and key in state:
        state = state[key]
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return dict(state)
    raise CheckpointError(f"{str(path)!r} holds {_describe(state)}, not a dict of tensors")


def load_strict(network: nn.Module, state: Mapping[str, Tensor], source: str = "state") -> None:
    """Load `state` into `network`, or raise one `CheckpointError` with everything that misfits."""
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


def refuse_misfits(source: str, **faults: list[str]) -> None:
    """Raise one `CheckpointError` that lists the first keys of each kind, if there are any."""
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
