"""Libraries that only some jobs need, imported when one of these begins."""

from importlib import import_module
from typing import Any

from speechmill.pipeline.errors import InputError


def load_extra(module: str, extra: str) -> Any:
    """Import a module that an extra of this package installs.

    Raises `InputError` that names the extra where it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} cannot be imported ({error}); pip install 'speechmill[{extra}]'"
        ) from error
