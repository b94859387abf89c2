"""The codec that docs/guide/add-a-codec.md builds."""

import importlib
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import speechmill.codecs
from speechmill.codecs import registry

PAGE = (Path(__file__).parents[2] / "docs/guide/add-a-codec.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
FOLDER = "codecs/speechmill/codecs/plain/"
MODULES = {
    path.removeprefix(FOLDER): text for path, text in FILES.items() if path.startswith(FOLDER)
}


def line_of_the_registry() -> dict[str, str]:
    """Return the page's line for the registry as an entry of `FAMILIES`."""
    [line] = [text for _, text in BLOCKS if text.startswith("    ")]
    return eval("{" + line + "}")


def write_modules(folder: Path, package: str) -> None:
    """Write the page's folder as `package`."""
    folder.mkdir(parents=True)
    for name, text in MODULES.items():
        (folder / name).write_text(text.replace("speechmill.codecs.plain", package))


@cache
def _written() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that contains the page's folder, until the process ends."""
    root = tempfile.TemporaryDirectory(prefix="add-a-codec-")
    write_modules(Path(root.name) / "plain", "speechmill.codecs.plain")
    return root


@contextmanager
def added() -> Iterator[None]:
    """Add the page's folder and line inside the block."""
    search = [*speechmill.codecs.__path__, _written().name]
    with (
        patch.object(speechmill.codecs, "__path__", search),
        patch.dict(registry.FAMILIES, line_of_the_registry()),
    ):
        importlib.invalidate_caches()
        yield


def is_plain(codec: object) -> bool:
    module = sys.modules.get("speechmill.codecs.plain.codec")
    return module is not None and isinstance(codec, module.PlainCodec)
