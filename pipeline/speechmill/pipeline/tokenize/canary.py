"""The canary: a known clip whose codes tell whether a worker's device computes right.

Its reference is the codes that the driver's CPU gives in float32, kept in `dataset.json`. A worker
must come near them when it has loaded, and must repeat its own codes before each part: that finds
wrong kernels, another library version and faulty memory.
"""

from __future__ import annotations

import json
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import xxhash

from speechmill.codecs import Codec, CodecInfo, codec_card, load_codec
from speechmill.codecs.errors import UnknownCodec
from speechmill.codecs.family import Card
from speechmill.codecs.fetch import cache_dir
from speechmill.pipeline.errors import DeviceWrong, StorageError
from speechmill.pipeline.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

# Of `dataset.json`; beside the identity, since on two CPUs a rare code differs.
KEY = "canary"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """The codes of the known clip, by codebook and frame."""

    clip: str  # digest of the clip's file
    codes_KF: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """As `dataset.json` holds it: a line of numbers for each codebook."""
        return {"clip": self.clip, "codes": [" ".join(map(str, row)) for row in self.codes_KF]}

    @classmethod
    def from_json(cls, found: Any, info: CodecInfo) -> Reference | None:
        """None if it is damaged, of another codec or of another version of the clip."""
        try:
            codes_KF = tuple(tuple(map(int, line.split())) for line in found["codes"])
            rows = zip(codes_KF, info.codebook_sizes, strict=True)
            in_range = all(0 <= min(row) <= max(row) < size for row, size in rows)
            clip = found["clip"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        rectangular = len({len(row) for row in codes_KF}) == 1
        return cls(clip, codes_KF) if in_range and rectangular and clip == clip_digest() else None


class Canary:
    """The known clip on the device of one codec."""

    def __init__(self, codec: Codec, device: str, precision: str, reference: Reference | None):
        """Encode the clip; raises `DeviceWrong` if too few codes are those of the reference."""
        from speechmill.codecs.self_check import encode_clip

        self._codec, self._device = codec, device
        self._codes_BKF = encode_clip(codec)
        self._error: DeviceWrong | None = None
        self.equal: float | None = None  # the share of codes that are those of the reference
        if reference is None:
            return
        self.equal = equal_codes(self._codes_BKF, reference, precision)
        least = least_equal(codec.info, precision)
        if self.equal < least:
            raise DeviceWrong(
                f"{codec.info.name} in {precision} on {place(device)}: only {self.equal:.0%} of a "
                f"known clip's codes equal those of float32 on the driver's CPU, {least:.0%} or "
                "more are normal; test that device and its libraries"
                + ("" if precision == "fp32" else ", or use precision=fp32")
            )

    def check(self) -> None:
        """Encode the clip again; raises `DeviceWrong`, now and ever after, if a code differs."""
        from speechmill.codecs.self_check import encode_clip

        if self._error is None:
            changed = (encode_clip(self._codec) != self._codes_BKF).sum()
            if not changed:
                return
            self._error = DeviceWrong(
                f"{self._codec.info.name} on {place(self._device)} changed {changed} of "
                f"{self._codes_BKF.numel()} codes of a known clip since it was loaded; test the "
                "memory of that device"
            )
        raise self._error


def stored_reference(identity: dict[str, Any], info: CodecInfo) -> Reference | None:
    """The reference in a `dataset.json`; None, with a warning, if this version cannot use it."""
    found = identity.get(KEY)
    reference = Reference.from_json(found, info)
    if found is not None and reference is None:
        logger.warning("the canary of dataset.json is damaged, or of another version of speechmill")
    return reference


def reference_codes(info: CodecInfo, options: dict[str, Any]) -> Reference | None:
    """The reference of a codec, computed once per machine; `options` are those of `load_codec`.

    None, with a warning, if the codec cannot encode here; then it may still do so on the workers.
    """
    name = xxhash.xxh3_64_hexdigest(f"{info.name} {info.revision} {clip_digest()}".encode())
    path = cache_dir() / "canary" / f"{name}.json"
    with suppress(OSError, ValueError):
        if found := Reference.from_json(json.loads(path.read_text()), info):
            return found
    try:
        computed = _compute(options)
    except Exception as error:  # codecs of other packages raise errors of many kinds
        logger.warning("no reference for the canary: %s", error)
        return None
    with suppress(StorageError):  # another run computes it again
        Storage(patience=0).put(str(path), json.dumps(computed.to_json()).encode())
    return computed


def _compute(options: dict[str, Any]) -> Reference:
    """The codec's own code in float32 on this CPU, not compiled."""
    from speechmill.codecs.self_check import encode_clip

    exact = {key: value for key, value in options.items() if key != "compile"}
    codec = load_codec(**exact | {"device": "cpu", "precision": "fp32"})
    [codes_KF] = encode_clip(codec).tolist()
    return Reference(clip_digest(), tuple(map(tuple, codes_KF)))


def equal_codes(found_BKF: Tensor, reference: Reference, precision: str) -> float:
    """The share of equal codes: of the first codebook, in float32 of all if that is less.

    Each codebook of a residual quantizer repeats the rounding of those before it.
    """
    import torch

    expected_BKF = torch.tensor([reference.codes_KF])
    if found_BKF.shape != expected_BKF.shape:
        return 0.0
    equal_BKF = (found_BKF == expected_BKF).float()
    first = float(equal_BKF[:, 0].mean())
    return min(first, float(equal_BKF.mean())) if precision == "fp32" else first


def least_equal(info: CodecInfo, precision: str) -> float:
    """The least share of equal codes: the card's for trained weights, or the default."""
    card = Card()
    with suppress(UnknownCodec):  # a name that only a configuration has
        card = codec_card(info.name) if info.trained else card
    return card.least_equal_codes(precision)


def place(device: str) -> str:
    """The host and the device, as an administrator finds them."""
    import torch

    if not device.startswith("cuda"):
        return f"the CPU of {socket.gethostname()}"
    uuid = torch.cuda.get_device_properties(device).uuid
    return f"{torch.cuda.get_device_name(device)} GPU-{uuid} of {socket.gethostname()}"


@cache
def clip_digest() -> str:
    """What identifies the version of the clip."""
    stored = files("speechmill.codecs").joinpath("self_check.safetensors").read_bytes()
    return xxhash.xxh3_64_hexdigest(stored)
