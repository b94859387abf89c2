"""Modules and functions that are imported by name: optional libraries, and code of the user."""

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

from speechmill.pipeline.errors import InputError


def load_extra(module: str, extra: str) -> Any:
    """Import a module that an extra of this package installs.

    Raises `InputError` that names the extra if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} cannot be imported ({error}); pip install 'speechmill[{extra}]'"
        ) from error


def load_function(
    name: str, setting: str, cure: str = "write package.module:function"
) -> Callable[..., Any]:
    """Import the function that `package.module:function` names.

    Raises `InputError` with the setting that names it.
    """
    module, _, attribute = name.partition(":")
    try:
        found = attrgetter(attribute)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{setting} is {name!r}: {error}; {cure}") from error
    if not callable(found):
        raise InputError(f"{setting} is {name!r}, which is not a function; {cure}")
    function: Callable[..., Any] = found
    return function
