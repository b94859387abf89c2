"""The null codec with faults: its options make it crash, hang, lie or fill the device.

Workers find it by its entry point when it is on their path, like any third-party codec.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

from speechmill.codecs.family import CodecFamily
from speechmill.codecs.null import FAMILY as NULL

OPTIONS = frozenset({"once", "fault", "room", "seconds"})
CANARY = (1, 32_000)  # shape of the known clip; the faults come with the corpus


def info(name, *, checkpoint=None, config=None, **_):
    return replace(NULL.info("null", checkpoint=None, config=None), name=name)


class Fragile:
    """`fault` comes once: at the first batch of the process that makes the file `once`.

    The fault "lie" comes at the second batch of a process, whose codes are wrong from then on.
    """

    def __init__(self, codec, fault, once, room, seconds):
        self.codec = codec
        self.info = replace(codec.info, name="fragile")
        self.fault, self.once, self.room, self.seconds = fault, once, room, seconds
        self.batches, self.lies = 0, False

    def encode(self, audio_BT, num_samples_B):
        if audio_BT.shape != CANARY:
            self.batches += 1
            self._fail(audio_BT)
        return self.codec.encode(audio_BT, num_samples_B) ^ self.lies

    def _fail(self, audio_BT):
        import torch  # here: a driver needs the facts alone

        time.sleep(self.seconds)
        if self.room and audio_BT.numel() > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.fault == "lie":
            self.lies = self.lies or (self.batches > 1 and self._is_first())
        elif self.once and self._is_first():
            if self.fault == "hang":
                time.sleep(3600)
            if self.fault == "die":
                os._exit(1)
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def decode(self, codes_BKF, num_frames_B):
        return self.codec.decode(codes_BKF, num_frames_B)

    def _is_first(self):
        try:
            Path(self.once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def load(name, *, checkpoint, config, device, precision, **options):
    codec = NULL.load("null", checkpoint=None, config=None, device=device, precision=precision)
    defaults = {"fault": "", "once": "", "room": 0, "seconds": 0.0}
    return Fragile(codec, **(defaults | options))


FAMILY = CodecFamily(variants=("fragile",), info=info, load=load, options=OPTIONS)
