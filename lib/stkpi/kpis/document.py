"""Write how every KPI is counted, and why so, into README_AUDIT.md.

    python -m stkpi.kpis.document

The table between the two marker comments follows from sql/catalog.yml; what stands around it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stkpi import settings
from stkpi.errors import UserError
from stkpi.kpis.definition import Definition, choose_definitions

FILE = settings.ROOT / "README_AUDIT.md"
BEGIN = "<!-- decisions: .venv/bin/python -m stkpi.kpis.document writes this table from sql/catalog.yml -->"
END = "<!-- end of decisions -->"


def decisions_table(definitions: Mapping[str, Definition]) -> str:
    """Return a markdown table of the definitions: KPI, counted by (day, measure, conditions), and why so."""
    lines = ["| KPI | counted by | why so, and not otherwise |", "| --- | --- | --- |"]
    for definition in definitions.values():
        options = [definition["date"], definition["measure"], *definition.conditions.values()]
        counted = "; ".join(dict.fromkeys(option.why for option in options))
        because = definition.kpi.because.replace("Open:", "**Open:**")
        if definition.departures:
            because = f"Adopted by the company: {definition.describe()}. By default: {because}"
        lines.append(f"| {_escape(definition.kpi.label)} | {_escape(counted)} | {_escape(because)} |")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def update_document(text: str, definitions: Mapping[str, Definition]) -> str:
    """Return a document with the table between its markers replaced. Raises UserError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"The table of decisions has no place: put the lines {BEGIN} and {END} where it belongs.")
    return f"{before}{BEGIN}\n\n{decisions_table(definitions)}\n{END}{after}"


def write_document(path: Path = FILE) -> None:
    """Bring the table of default definitions in a document up to date."""
    path.write_text(update_document(path.read_text(encoding="utf-8"), choose_definitions({})), encoding="utf-8")


if __name__ == "__main__":
    write_document()
