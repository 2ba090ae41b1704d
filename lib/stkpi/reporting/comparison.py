"""The page of a comparison: the sentence, how the export was read, the way between the numbers, and the rows."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from stkpi import company, settings
from stkpi.reconcile import render
from stkpi.reconcile.compare import Result
from stkpi.reconcile.folder import Compared
from stkpi.reconcile.reasons import IDENTICAL
from stkpi.reporting import charts, pages, tables
from stkpi.reporting.fragments import Fragment

MOST_ROWS = 1000  # on the page; rows.csv has all


def render_rows(result: Result, *, differing: bool = False, names: bool = False) -> Fragment:
    """Return the rows as a table, those that differ first, each with the link to its job."""
    count = (result.rows["side"] != IDENTICAL).sum() if differing else len(result.rows)
    shown = render.build_rows_table(result, differing=differing, names=names, most=MOST_ROWS).astype(object)
    if "in ServiceTitan" in shown:
        links = [Markup('<a href="{}">job</a>').format(link) if link else "" for link in shown["in ServiceTitan"]]
        shown["in ServiceTitan"] = pd.Series(links, index=shown.index, dtype=object)  # as text it would be escaped
    more = f"<p>{count - MOST_ROWS:,} more rows are in rows.csv.</p>" if count > MOST_ROWS else ""
    return Fragment(f"{tables.render_table(shown).data}{more}")


def render_comparison(result: Result, *, names: bool = False) -> str:
    """Return the comparison as one HTML page."""
    parts = [
        f"<h1>Why does {escape(result.export)} show another number?</h1>",
        tables.render_text(lines=[*result.doubts, *result.notes]).data,
        tables.render_text(render.summarize(result), render.list_hints(result)).data,
        tables.render_table(render.count_sides(result)).data,
    ]
    if not result.matches:
        waterfall = charts.render_waterfall(render.list_waterfall_steps(result), render.write_headline(result))
        parts += ["<h2>From their number to ours</h2>", waterfall.data]
        parts += [tables.render_table(render.build_bridge_table(result)).data]
    parts += ["<h2>Row by row</h2>", render_rows(result, names=names).data]
    return pages.render_page(result.export, "\n".join(map(str, parts)), up="../../")


def write_compared(compared: Iterable[Compared]) -> pd.DataFrame:
    """Write the page of every file that was compared now; return a table of all files, with links from a run's page."""
    config, lines = settings.load(), []
    folder, names = config.runs / "reconcile", company.read_company(config).shows_names(config)
    for one in compared:
        page = write_comparison(one.result, folder, names=names) if one.result else None
        link = Markup('<a href="../{}/{}/page.html">page</a>').format(folder.name, page.parent.name) if page else ""
        lines.append((one.outcome, one.file, one.sentence, f"{one.compared_at:%Y-%m-%d %H:%M} UTC", link))
    return pd.DataFrame(lines, columns=["outcome", "file", "what it says", "compared", "row by row"], dtype=object)


def write_comparison(result: Result, folder: Path, *, names: bool = False) -> Path:
    """Write page.html, rows.csv and result.json into a folder of their own below `folder`; return the page.

    names: show the customers' names
    """
    page = render.write_files(result, folder, names=names) / "page.html"
    page.write_text(render_comparison(result, names=names), encoding="utf-8")
    return page
