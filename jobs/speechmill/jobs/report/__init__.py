"""HTML pages that need no other file: one template for each kind of page, all in one style."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from speechmill.pipeline.text import clean


def render(template: str, **values: Any) -> str:
    """Return a page; every text in it is escaped."""
    return clean(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(autoescape=True, undefined=StrictUndefined, loader=loader)
