"""Whole pages from the templates beside this file; nothing in them is loaded from elsewhere."""

import functools
from typing import Any

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.PackageLoader('research.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )


def render(template: str, **values: Any) -> str:
  """A page.

  Args:
    template: a file of `templates/`.
    values: plain text (it is escaped), tables and figures; SVG is taken as it is.
  """
  return _environment().get_template(template).render(values)
