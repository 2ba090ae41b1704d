"""Fragments of HTML, with their style: they read the same in JupyterLab and on the pages of a run, at any width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from IPython.display import HTML

from stkpi.formatting import show_controls

HERE = Path(__file__).parent


def show_text(value: Any) -> Any:
    """Return what a template prints for a value: of a text, its control characters as signs."""
    return show_controls(value) if type(value) is str else value


environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, finalize=show_text
)


def render_fragment(macro: str, **values: Any) -> HTML:
    """Return what a macro of fragments.html makes of the values."""
    fragment = getattr(environment.get_template("fragments.html").module, macro)(**values)
    return HTML(f"<style>{(HERE / 'fragments.css').read_text(encoding='utf-8')}</style>{fragment}")
