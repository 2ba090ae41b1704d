"""The commands behind the Makefile: `python -m stkpi ingest|backfill|doctor …`."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from stkpi import settings
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.marts import invoice_repair as repair
from stkpi.reconcile import command as reconcile
from stkpi.reconcile import pull, render
from stkpi.reconcile.observations import report as night
from stkpi.runs import sandbox_process
from stkpi.validation import run as validation


def _ingest(options: argparse.Namespace) -> int:
    report = ingest.run(options.entities, "incremental")
    return _tell(report)


def _backfill(options: argparse.Namespace) -> int:
    report = ingest.run(options.entity, "window", options.first, options.last)
    return _tell(report)


def _rebuild(options: argparse.Namespace) -> int:
    done = marts.build(options.as_of, full=True)
    print(f"{done.headline} {int(done.tables['rows'].sum()):,} rows in {len(done.tables)} tables.")
    return 0


def _status(_: argparse.Namespace) -> int:
    print(ingest.status().to_string(index=False))
    return 0


def _repair(options: argparse.Namespace) -> int:
    done = repair.run(options.dry_run, options.first, options.last)
    print(f"{done.coverage.to_string()}\n\n{done.methods.to_string(index=False)}\n")
    if len(done.unresolved):
        print(f"Left alone:\n{done.unresolved.head(20).to_string(index=False)}\n")
    print(done.headline)
    return 0


def _validate(options: argparse.Namespace) -> int:
    found = validation.run(options.as_of, options.weeks)
    print(*found.lines(), sep="\n")
    print(found.error or "No critical check is red.", file=sys.stderr)
    return 1 if found.error else 0


def _reconcile(options: argparse.Namespace) -> int:
    pulled = options.export.startswith(pull.PREFIX)
    with sandbox_process.tenant() if pulled else nullcontext():
        result = reconcile.run(options.export, options.kpi, options.unit, options.first, options.last)
    print(render.text(result))
    if not result.matches:
        folder = render.write(result, options.out, names=options.names)
        print(f"Row by row: {folder / 'rows.csv'}")
    return 0 if result.matches else 1


def _doctor(_: argparse.Namespace) -> int:
    from stkpi.runs import doctor  # noqa: PLC0415 - with Google's client, which costs every other command half a second

    todo = 0
    for finding in doctor.examine(settings.load()):
        print(finding.line(), flush=True)
        todo += not finding.ok
    print(f"{todo} to do." if todo else "All is there: `make nightly`.")
    return 2 if todo else 0


def _find(options: argparse.Namespace) -> int:
    found = night.find(options.kpi, careless=options.careless)
    print(night.text(found))
    return 1 if found.finding.verdict == "none" else 0


def _observe(options: argparse.Namespace) -> int:
    row = {name: getattr(options, name) for name in night.ROW}
    print(night.added(*night.observe(row)))
    return 0


def _tell(report: ingest.IngestReport) -> int:
    for result in report.entities:
        if result.error:
            print(f"{result.entity}: {result.error}", file=sys.stderr)
    total = sum(result.fetched for result in report.entities)
    changed = sum(result.changed for result in report.entities)
    print(f"Ingest {report.status}: {total:,} rows fetched, {changed:,} new or changed.")
    return 0 if report.status == "ok" else 1


def _add_ledger(commands: Any) -> None:
    """The commands of observed numbers."""
    command = commands.add_parser("find", help="which definition of a KPI gives the numbers of the ledger; 1: none")
    command.add_argument("--kpi", required=True, help="a column of the weekly table, such as leads")
    command.add_argument(
        "--careless", action="store_true", help="up to a third of the numbers may be off by one or two"
    )
    command.set_defaults(run=_find, tenant=False)

    command = commands.add_parser("observe", help="add a number that ServiceTitan shows to the ledger")
    command.add_argument("--kpi", required=True, help="a column of the weekly table, such as leads")
    command.add_argument("--bu", dest="unit", required=True, help="a rolled-up unit, such as Phoenix-Sales")
    command.add_argument("--from", dest="first_day", required=True, help="first day, such as 2025-08-18")
    command.add_argument("--to", dest="last_day", required=True, help="last day, included")
    command.add_argument("--value", required=True, help="the number as it is shown: 96, $1,234.56 or 39.74%%")
    command.add_argument("--tolerance", default="", help="the largest difference; default: half of the last digit")
    command.add_argument("--source", default="screen", help="api report, export file, screen (default) or said")
    command.add_argument("--report", default="", help="the report's name and its filters")
    command.add_argument("--by", dest="read_by", default="", help="who read it")
    command.set_defaults(run=_observe, tenant=False)


def main() -> int:
    """Run one command; exit code 0 all well, 1 something failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m stkpi", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("ingest", help="what changed since the last ingest")
    command.add_argument("--entities", default="all", help="comma-separated, default all")
    command.set_defaults(run=_ingest, tenant=True)

    command = commands.add_parser("backfill", help="one entity again, by its window of days")
    command.add_argument("--entity", required=True)
    command.add_argument("--from", dest="first", required=True, help="first day, such as 2025-08-01")
    command.add_argument("--to", dest="last", required=True, help="last day, included")
    command.set_defaults(run=_backfill, tenant=True)

    command = commands.add_parser("rebuild", help="all weeks of the marts anew, not only those that changed")
    command.add_argument("--as-of", default="", help="the last day that counts; default: AS_OF, else today")
    command.set_defaults(run=_rebuild, tenant=False)

    command = commands.add_parser("status", help="per entity: last run, watermark, lag, quarantined rows")
    command.set_defaults(run=_status, tenant=False)

    command = commands.add_parser("doctor", help="what is missing for a run, and how to get it")
    command.set_defaults(run=_doctor, tenant=True)

    command = commands.add_parser("repair", help="old invoices without a job: link them by evidence")
    command.add_argument("--dry-run", action="store_true", help="only tell what would happen")
    command.add_argument("--from", dest="first", default="", help="first day of the invoices' creation; default: all")
    command.add_argument("--to", dest="last", default="", help="last day, included")
    command.set_defaults(run=_repair, tenant=False)

    command = commands.add_parser("validate", help="every check of the warehouse, one line each")
    command.add_argument("--as-of", default="", help="the day that the KPI tables must reach; default: any")
    command.add_argument("--weeks", type=int, default=validation.WEEKS, help="how many weeks are recent")
    command.set_defaults(run=_validate, tenant=False)

    command = commands.add_parser(
        "reconcile", help="an export against our rows: 0 the same, 1 different, 2 not comparable"
    )
    command.add_argument("--export", required=True, help="an .xlsx or .csv file, or a saved report: report:category/id")
    command.add_argument("--kpi", default="", help="a column of the weekly table; default: what the columns say")
    command.add_argument("--bu", dest="unit", default="", help="a rolled-up unit; default: those that the export names")
    command.add_argument("--from", dest="first", default="", help="first day; default: the one that the export states")
    command.add_argument("--to", dest="last", default="", help="last day, included")
    command.add_argument("--names", action="store_true", help="write the customers' names instead of masking them")
    command.add_argument("--out", type=Path, default=settings.ROOT / "runs" / "reconcile", help="where the rows go")
    command.set_defaults(run=_reconcile, tenant=False)

    _add_ledger(commands)

    options = parser.parse_args()
    try:
        if not options.tenant:
            return options.run(options)
        with sandbox_process.tenant():
            return options.run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except WarehouseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Nothing is lost: the next run resumes.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
