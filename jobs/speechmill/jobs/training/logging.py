"""The readable files of a run directory: configuration, losses by step, TensorBoard, audio."""

import json
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from speechmill.jobs.config import to_yaml
from speechmill.jobs.training.collapse import Collapse
from speechmill.pipeline.audio.flac import encode_flac
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.versions import library_versions


class TrainingLogger:
    """Writes the curves, the validations, the audio and the collapses of a run directory.

    A file of curves holds the steps between two checkpoints that are due, and appears before the
    second one, so a run that was stopped or killed leaves the same files as an uninterrupted one.
    """

    def __init__(self, root: str, storage: Storage, step: int, rows: list[dict[str, Any]]):
        """`rows` are those before `step` that no file of curves holds yet."""
        self.root = root
        self.storage = storage
        self.rows = list(rows)
        self._temporary = tempfile.TemporaryDirectory() if "://" in root else None
        self._folder = Path(self._temporary.name if self._temporary else f"{root}/tensorboard")
        self._board = SummaryWriter(self._folder, purge_step=step or None)

    def log_step(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, "phase": phase, **values})
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def log_validation(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        row = {"step": step, "phase": phase, **values}
        self._put(f"validation/step-{step:08d}.json", (json.dumps(row) + "\n").encode())
        for name, value in values.items():
            self._board.add_scalar(f"validation/{name}", value, step)

    def log_collapse(self, collapse: Collapse) -> None:
        data = json.dumps(asdict(collapse), indent=1).encode()
        self._put(f"collapse/step-{collapse.step:08d}.json", data)

    def log_audio(self, name: str, step: int, audio_T: Tensor, sample_rate: int) -> None:
        """Write a clip of audio as FLAC and to TensorBoard."""
        self._put(f"samples/{name}.flac", encode_flac(audio_T.numpy(), sample_rate))
        self._board.add_audio(name.partition("/")[2] or name, audio_T, step, sample_rate)

    def flush(self, step: int) -> None:
        """Write the rows since the last flush; to be called before each checkpoint that is due."""
        if self.rows:
            text = "".join(f"{json.dumps(row)}\n" for row in self.rows)
            self._put(f"curves/step-{step:08d}.jsonl", text.encode())
            self.rows.clear()
        self._board.flush()
        self._upload_board()

    def close(self) -> None:
        self._board.close()
        self._upload_board()
        if self._temporary:
            self._temporary.cleanup()

    def _upload_board(self) -> None:
        if self._temporary:
            for path in self._folder.iterdir():
                self._put(f"tensorboard/{path.name}", path.read_bytes())

    def _put(self, name: str, data: bytes) -> None:
        self.storage.put(join(self.root, name), data)


def describe_run(config: object, root: str, storage: Storage) -> None:
    """Write the configuration, and the versions and the commit that the run uses."""
    storage.put(join(root, "config.yaml"), to_yaml(config).encode())
    versions = {
        **library_versions(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "git_commit": _git_commit(),
    }
    storage.put(join(root, "versions.json"), json.dumps(versions, indent=1).encode())


def _git_commit() -> str | None:
    """Return the commit of the working copy that this module belongs to, if there is one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
