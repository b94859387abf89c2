"""A store in memory that stops working after its n-th operation, as after kill -9."""

from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Stopped(BaseException):
    """The process is dead: no handler may catch this and continue."""


class StoppingStore(MemoryFileSystem):
    """`stopping://`; written objects stay for the next run, as on any store."""

    protocol = "stopping"
    store: dict[str, Any] = {}  # noqa: RUF012 - so does fsspec, to keep the objects
    pseudo_dirs = [""]  # noqa: RUF012
    operations = 0
    stop_after: float = float("inf")
    done_before_stop = False  # whether the last operation still happens

    @classmethod
    def begin(cls, stop_after: float = float("inf"), done_before_stop: bool = False) -> None:
        cls.operations, cls.stop_after = 0, stop_after
        cls.done_before_stop = done_before_stop

    @classmethod
    def files(cls, folder: str) -> dict[str, bytes]:
        """All files below a folder, by name."""
        return {
            path.removeprefix(folder): bytes(file.getbuffer())
            for path, file in sorted(cls.store.items())
            if path.startswith(folder)
        }

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("stopping://", "memory://"))

    def find(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(super().find, args, kwargs)

    def info(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(super().info, args, kwargs)

    def pipe_file(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(super().pipe_file, args, kwargs)

    def rm_file(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(super().rm_file, args, kwargs)

    def _open(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(super()._open, args, kwargs)

    def _step(self, operation: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        kind = type(self)
        kind.operations += 1
        if kind.operations > kind.stop_after:
            if kind.done_before_stop and kind.operations == kind.stop_after + 1:
                operation(*args, **kwargs)
            raise Stopped
        return operation(*args, **kwargs)


fsspec.register_implementation("stopping", StoppingStore)
