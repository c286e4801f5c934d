"""The report as one HTML page: no script, no network, no other file, readable in light, dark and print.

Every text is escaped by the template engine and has its control characters spelled out, since column names come from
strangers. A content security policy forbids the page to load or send anything; it allows the page's own style by its
hash.

Privacy: shows the dict it is given and nothing else; the edition was decided when that was built.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from tabveil.report import _audit, _draw, _view
from tabveil.report._text import visible


def render(document: Mapping[str, Any]) -> str:
    """The page for a report dict.

    Args:
      document: what `document.build` gave.
    """
    style = _style(document)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=document,
            style=Markup(style),  # noqa: S704 - our own file, no input in it
            style_hash=digest,
            draw=_draw,
            audit=_audit,
            view=_view,
        )
    )
    return page + "\n"


def _style(document: Mapping[str, Any]) -> str:
    """The style sheet; in print the stamps stand at the head of every page."""
    words = " · ".join(s["text"] for s in document["stamps"] if s["text"] in _view.STAMPS)
    return _file("style.css") + (f'@page {{ @top-center {{ content: "{words}"; }} }}\n' if words else "")


def _file(name: str) -> str:
    return importlib.resources.files("tabveil.report").joinpath("templates", name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_view.FILTERS)
    return environment


def _shown(value: Any) -> Any:
    """Every text that goes into the page passes here, before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
