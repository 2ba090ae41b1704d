"""Make the lines of lib/stkpi/servicetitan/endpoints.csv from ServiceTitan's published descriptions.

    python tests/endpoint_facts.py accounting.json crm.json … > endpoints.csv

The descriptions are at developer.servicetitan.io, one a module (Download > OpenAPI). Two things are not in them: the
values that an endpoint requires, and what a `leadCall` with its own id means. REQUIRED and WRAPPED say them.
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVERYTHING = {"active": "active=Any", "activeState": "activeState=All", "activeOnly": "activeOnly=false"}
_EVER = "fromUtc=1990-01-01T00:00:00Z toUtc=2100-01-01T00:00:00Z"
REQUIRED = {
    "marketingads/v2/attributed-leads": _EVER,
    "marketingads/v2/performance": f"{_EVER} performanceSegmentationType=Campaign",
}
# The list of calls gives jobs with the call in them: their own id is the job's, and 0 for a call that led to none.
WRAPPED = {"telecom/v2/calls": "leadCall", "telecom/v3/calls": "leadCall"}
COLUMNS = ("path", "parameters", "filters", "id", "fields")


def make_lines(spec: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the line of each list and export feed of a description; single records and reports are neither."""
    for long, item in spec["paths"].items():
        path = long.strip("/").replace("/tenant/{tenant}/", "/")
        if "get" not in item or "{" in path:
            continue
        fields = _resolve_row(spec, item["get"])
        taken = {parameter["name"] for parameter in item["get"].get("parameters", ())}
        wrapper = WRAPPED.get(path)
        inside = _resolve(spec, fields[wrapper])["properties"] if wrapper else {}
        id_type = _describe_type((inside or fields).get("id"))
        filters = {"created": "createdOnOrAfter", "modified": "modifiedOnOrAfter", "total": "includeTotal"}
        is_list = "/export/" not in path
        yield {
            "path": path,
            "parameters": REQUIRED.get(path)
            or next((value for name, value in EVERYTHING.items() if is_list and name in taken), ""),
            "filters": " ".join(name for name, parameter in filters.items() if parameter in taken),
            "id": id_type and f"{wrapper}.id {id_type}" if wrapper else id_type and f"id {id_type}",
            "fields": " ".join(
                [*fields, *(f"{wrapper}.{name}" for name in ("createdOn", "modifiedOn", "active") if name in inside)]
            ),
        }


def _resolve_row(spec: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of a row of the answer; none where it is no object with `data`."""
    [content] = operation["responses"]["200"]["content"].values()
    rows = _resolve(spec, content["schema"]).get("properties", {}).get("data", {})
    return _resolve(spec, rows.get("items", {})).get("properties", {})


def _resolve(spec: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _describe_type(schema: dict[str, Any] | None) -> str:
    return "" if not schema else schema["type"] + ("|null" if schema.get("nullable") else "")


if __name__ == "__main__":
    lines = [line for name in sys.argv[1:] for line in make_lines(json.loads(Path(name).read_text(encoding="utf-8")))]
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(lines, key=lambda line: line["path"]))
