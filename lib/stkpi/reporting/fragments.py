"""Fragments of HTML, with their style: they read the same in JupyterLab and on the pages of a run, at any width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from IPython.display import HTML

HERE = Path(__file__).parent
_environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True)


def render_fragment(macro: str, **values: Any) -> HTML:
    """Return what a macro of fragments.html makes of the values."""
    fragment = getattr(_environment.get_template("fragments.html").module, macro)(**values)
    return HTML(f"<style>{(HERE / 'fragments.css').read_text(encoding='utf-8')}</style>{fragment}")
