"""Render the pages of a run: an executed notebook without its code, and the index of all runs. They load nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import nbformat
from traitlets.config import Config

from stkpi.formatting import format_day
from stkpi.reconcile.observations.outcomes import describe_match
from stkpi.reporting.figures import name_change
from stkpi.reporting.fragments import ASSETS, environment
from stkpi.reporting.record import RECORD_MIME

HERE = Path(__file__).parent
# Error markers are papermill's; the page says the error at its top instead.
PAPERMILL_MARKS = ("papermill-error-cell-tag",)


def _format_instant(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return f"{moment:%a}, {format_day(moment)} {moment:%H:%M} UTC"


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_weekday(text: str) -> str:
    """Return a day (ISO) with the name of its weekday: Sunday, Sep 14, 2025."""
    day = date.fromisoformat(text)
    return f"{day:%A}, {format_day(day)}"


def link_figure(cell: Mapping[str, Any], place: str, period: str) -> str:
    """Return the address of a figure on the page Explore; of days that it does not have, the page itself."""
    given = {"period": period, "place": place, "kpi": cell["kpi"]}
    return f"explore.html#{urlencode(given)}" if period else "explore.html"


def link_place(place: str, period: str) -> str:
    """Return the address of all figures of a place on the page Explore."""
    return f"explore.html#{urlencode({'period': period, 'place': place})}"


def link_change(cell: Mapping[str, Any], place: str, week: str) -> str:
    """Return the address of the change of a figure on the page of changes."""
    return f"changes.html#{name_change(cell['kpi'], place, week)}"


def _format_elapsed(run: Mapping[str, Any]) -> str:
    elapsed = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
    return _format_duration(elapsed.total_seconds())


environment.filters |= {"when": _format_instant, "duration": _format_duration, "elapsed": _format_elapsed}
environment.filters |= {"weekday": format_weekday, "explore": link_figure, "change": link_change}
environment.filters |= {"match": describe_match, "place": link_place}


def _render_body(notebook: nbformat.NotebookNode) -> str:
    # The "basic" template is the bare body: nbconvert's full ones load scripts from CDNs. An exporter per page, because
    # two threads render at once.
    from nbconvert.exporters import HTMLExporter  # noqa: PLC0415 - what renders no notebook does not wait for it

    hidden = Config(TagRemovePreprocessor={"enabled": True, "remove_cell_tags": PAPERMILL_MARKS})
    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True, config=hidden
    )
    return exporter.from_notebook_node(notebook)[0]


def read_recorded(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Return what an executed notebook recorded with `record`; of a name recorded twice, the later."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found |= output.get("data", {}).get(RECORD_MIME, {})
    return found


def find_title(notebook: nbformat.NotebookNode) -> str:
    """Return the first heading of a notebook."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#+\s*(.+)$", text, flags=re.MULTILINE)
    return heading[1] if heading else "Report"


def _is_result(output: nbformat.NotebookNode) -> bool:
    # What is printed is progress, for who watches; the executed notebook keeps it.
    return output.output_type != "stream" and RECORD_MIME not in output.get("data", {})


def render_notebook(notebook: nbformat.NotebookNode, *, error: str | None = None, sandbox: bool = False) -> str:
    """Return an executed notebook as one self-contained HTML page: text and results, no code and no prints.

    `error` is shown at the top of the page; `sandbox` marks the numbers as those of the made-up company.
    """
    shown = nbformat.from_dict(notebook)
    for cell in shown.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _is_result(output)]
    return render_page(find_title(notebook), _render_body(shown), error=error, sandbox=sandbox)


def render_page(title: str, body: str, *, error: str | None = None, sandbox: bool = False, up: str = "../") -> str:
    """Return a self-contained page; `up` leads from its folder to the index of all runs."""
    return environment.get_template("page.html").render(
        title=title, body=body, error=error, sandbox=sandbox, up=up, style=(HERE / "style.css").read_text()
    )


def render_index(runs: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """Return the home page of a company: its newest figures, what needs a person, and below the runs, newest first.

    values: `home` (see `site.describe_home`), problems, checks, running, others; without `home` there are no figures
    """
    style = (ASSETS / "site.css").read_text(encoding="utf-8")
    return environment.get_template("index.html").render(runs=runs, style=style, **values)


def render_explore(name: str, folder: str) -> str:
    """Return the page Explore of a company, whose data are in `folder` (relative to the page)."""
    return environment.get_template("explore.html").render(name=name, folder=folder)


def render_changes(name: str, days: int, kpis: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of what changed in the last `days` days; `kpis`: see `changes.describe_changes`."""
    return environment.get_template("changes.html").render(name=name, days=days, kpis=kpis)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, and a kill, never meets half of it."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
