"""Fragments of HTML, with their style: they read the same in JupyterLab and on the pages of a run, at any width.

In JupyterLab people can also sort and search the tables, and point at the charts. Nothing is loaded from a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from IPython.display import HTML

from stkpi import settings
from stkpi.formatting import show_controls

HERE = Path(__file__).parent
ASSETS = HERE / "assets"  # what the pages share: libraries (see LICENSES.txt), script and style
VEGA_LITE = "application/vnd.vegalite.v5+json"  # JupyterLab itself brings the library that draws it


class Fragment(HTML):
    """HTML of a page (`data`) that a notebook shows, too: in JupyterLab with live tables, and with `chart` (Vega-Lite)
    instead of its pictures.
    """

    def __init__(self, data: str, chart: Mapping[str, Any] | None = None) -> None:
        """Keep the HTML and the chart."""
        super().__init__(data)
        self.chart = chart

    def _repr_html_(self) -> str | None:
        if not _is_lab():
            return str(self.data)
        return None if self.chart else _make_live(str(self.data))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {VEGA_LITE: self.chart} if self.chart and _is_lab() else {}


def _is_lab() -> bool:
    return bool(settings.load().jpy_session_name)


def _make_live(data: str) -> str:
    if "<table" not in data:
        return data
    library = (ASSETS / "dataTables.min.js").read_text(encoding="utf-8")
    return f"{data}{environment.get_template('fragments.html').module.live(library)}"  # type: ignore[attr-defined]


def show_text(value: Any) -> Any:
    """Return what a template prints for a value: of a text, its control characters as signs."""
    return show_controls(value) if type(value) is str else value


environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, finalize=show_text
)


def render_fragment(macro: str, *, chart: Mapping[str, Any] | None = None, **values: Any) -> Fragment:
    """Return what a macro of fragments.html makes of the values; `chart`: what JupyterLab draws instead."""
    fragment = getattr(environment.get_template("fragments.html").module, macro)(**values)
    return Fragment(f"<style>{(HERE / 'fragments.css').read_text(encoding='utf-8')}</style>{fragment}", chart)
