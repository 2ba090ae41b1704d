"""The commands behind the Makefile: `python -m stkpi ingest|backfill|doctor …`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import traceback
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stkpi import company, settings, terminal
from stkpi.dates import parse_day
from stkpi.errors import UserError, WarehouseError
from stkpi.formatting import format_age
from stkpi.ingest import run as ingest
from stkpi.kpis.catalog import find_kpi
from stkpi.kpis.definition import Definition, parse_choices, read_definitions
from stkpi.kpis.sql import definition_sql
from stkpi.marts import build as marts
from stkpi.marts import invoice_repair as repair
from stkpi.marts import takeover
from stkpi.proposal import folder as proposal
from stkpi.reconcile import command as reconcile
from stkpi.reconcile import render
from stkpi.reconcile.observations import adopt, observe
from stkpi.reconcile.observations import report as ledger_report
from stkpi.reconcile.observations.search import describe_search
from stkpi.runs import history, sandbox_process
from stkpi.servicetitan.reports import PREFIX
from stkpi.validation.series import WEEKS
from stkpi.warehouse.names import LOGICAL, map_sql


def _ingest(options: argparse.Namespace) -> int:
    return _print_ingest(ingest.run_ingest(options.entities, "incremental"))


def _backfill(options: argparse.Namespace) -> int:
    if not options.entity:
        raise UserError("ENTITY is needed: one entity, such as invoices.")
    if not (options.first and options.last):
        raise UserError("FROM and TO are both needed: days such as 2025-08-18, both included.")
    first, last = parse_day(options.first, "FROM"), parse_day(options.last, "TO")
    if last < first:
        raise UserError(f"TO ({last}) is before FROM ({first}): swap the dates.")
    return _print_ingest(ingest.run_ingest(options.entity, "window", first.isoformat(), last.isoformat()))


def _rebuild(options: argparse.Namespace) -> int:
    done = marts.build_marts(options.as_of, full=True)
    print(f"{done.headline} {int(done.tables['rows'].sum()):,} rows in {len(done.tables)} tables.")
    return 0


def _set_up(_: argparse.Namespace) -> int:
    done = proposal.set_up()
    print(*done.lines, sep="\n")
    if len(done.guesses):
        print(done.guesses.to_string(index=False))
    if not done.lines:
        print("Nothing is missing in the company folder, and nothing in it is a guess.")
    return 0


def _status(_: argparse.Namespace) -> int:
    print(*ingest.describe_status(), sep="\n")
    return 0


def _repair(options: argparse.Namespace) -> int:
    if options.table:
        done = repair.run_old(options.table, options.dry_run or not options.apply, options.first, options.last)
    else:
        done = repair.run(options.dry_run, options.first, options.last)
    print(f"{done.coverage.to_string()}\n\n{done.methods.to_string(index=False)}\n")
    if len(done.unresolved):
        print(f"Left alone:\n{done.unresolved.head(20).to_string(index=False)}\n")
    print(done.headline)
    if options.table:
        print(f"{done.filled:,} invoices {'would change; APPLY=1 writes them' if done.dry_run else 'have changed'}.")
    return 0


def _takeover(options: argparse.Namespace) -> int:
    found = takeover.compare_old(options.old)
    print(found.tables.to_string(index=False))
    print(f"{len(found.views)} views were saved to {settings.load().runs / 'takeover'}/*.sql.")
    return 0


def _validate(options: argparse.Namespace) -> int:
    from stkpi.validation import run as validation  # noqa: PLC0415 - Great Expectations takes seconds to load

    found = validation.run(options.as_of, options.weeks)
    print(*found.format_lines(), sep="\n")
    print(found.error or "No critical check is red.", file=sys.stderr)
    return 1 if found.error else 0


def _reconcile(options: argparse.Namespace) -> int:
    from stkpi.reporting.comparison import write_comparison  # noqa: PLC0415 - charts take a second to load

    pulled = not options.export or options.export.startswith(PREFIX)
    try:
        with sandbox_process.provide_tenant() if pulled else nullcontext():
            result = reconcile.run(options.export, options.kpi, options.unit, options.first, options.last)
    except UserError:
        raise
    except Exception as error:  # Python ends with 1, and 1 is an answer: the numbers differ
        print(error if isinstance(error, WarehouseError) else traceback.format_exc(), file=sys.stderr)
        return 2
    print(render.format_text(result))
    config = settings.load()
    names = not options.masked and company.read_company(config).shows_names(config)
    page = write_comparison(result, options.out or config.runs / "reconcile", names=names)
    print(f"Row by row: {page}")
    return 0 if result.matches else 1


def _doctor(_: argparse.Namespace) -> int:
    from stkpi.runs import doctor  # noqa: PLC0415 - it imports Google's client, half a second that other commands save

    config, todo = settings.load(), 0
    for finding in doctor.examine(config):
        print(finding.format_line(), flush=True)
        todo += not finding.ok
    ready = "A night can run, on the made-up company" if config.is_demo else "A night can run"
    print(f"{todo} to do before a night can run." if todo else f"{ready}: `make nightly`.")
    return 2 if todo else 0


def _verify(options: argparse.Namespace) -> int:
    from stkpi.warehouse.duckdb import verify_file  # noqa: PLC0415 - the engine in use is the only one imported

    config = settings.load()
    if config.bq_project or not config.warehouse.exists():
        print("There is no warehouse file to verify.")
        return 0
    try:
        print(f"{config.warehouse} is whole: {verify_file(config.warehouse):,} rows.")
    except (UserError, WarehouseError) as error:
        if not options.set_aside:
            raise
        print(error)
        for path in config.warehouse.parent.glob(f"{config.warehouse.name}*"):
            path.rename(path.with_name(f"damaged-{datetime.now(UTC):%Y%m%d-%H%M%S}-{path.name}"))
        print("It was set aside.")
    return 0


def _heartbeat(options: argparse.Namespace) -> int:
    runs = options.runs or settings.load().runs
    begun = history.read_runs(history.find_history(runs))
    last = datetime.fromisoformat(begun[0]["started_at"]) if begun else None
    age = datetime.now(UTC) - last if last else None
    if age is not None and age <= timedelta(hours=options.hours):
        print(f"The last nightly run began {format_age(age)}.")
        return 0
    when = f"since {last:%Y-%m-%d %H:%M} UTC" if last else "yet"
    print(f"No nightly run has begun {when} in {runs}: see whether its schedule still runs.", file=sys.stderr)
    return 1


def make_lab_command(folder: Path) -> list[str]:
    """Return the command that opens a folder of notebooks in JupyterLab, which then asks no other machine for news."""
    quiet = "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"
    return [sys.executable, "-m", "jupyter", "lab", f"--notebook-dir={folder}", *quiet]


def _lab(_: argparse.Namespace) -> int:
    jupyter = subprocess.Popen(make_lab_command(settings.ROOT / "notebooks"))  # noqa: S603 ours
    while True:
        try:
            return jupyter.wait()
        except KeyboardInterrupt:  # Jupyter asks whether it shall stop
            continue


def _find(options: argparse.Namespace) -> int:
    found = ledger_report.search_kpi(options.kpi, careless=options.careless)
    print(describe_search(found))
    return 1 if found.finding.verdict == "none" else 0


def _observe(options: argparse.Namespace) -> int:
    if options.undo:
        print(observe.undo_observation())
        return 0
    print(*observe.observe_number({name: getattr(options, name) for name in observe.FIELDS}), sep="\n")
    return 0


def _adopt(options: argparse.Namespace) -> int:
    if options.undo:
        print(adopt.undo_adoption(options.kpi))
    else:
        print(adopt.adopt_definition(options.kpi, options.definition))
    return 0


def _sql(options: argparse.Namespace) -> int:
    kpi = find_kpi(options.kpi)
    chosen = read_definitions()[kpi.name]
    if options.definition:
        chosen = Definition(kpi, kpi.choose(parse_choices(kpi, options.definition)))
    statement = map_sql(definition_sql(chosen), settings.load().datasets)
    print(f"-- {kpi.label}: {chosen.describe()}\n{statement}")
    return 0


def _print_ingest(report: ingest.IngestReport) -> int:
    """Print the errors and the totals of an ingest; return the exit code."""
    for result in report.entities:
        if result.error:
            print(f"{result.entity}: {result.error}", file=sys.stderr)
    total = sum(result.fetched for result in report.entities)
    changed = sum(result.changed for result in report.entities)
    print(f"Ingest {report.status}: {total:,} rows fetched, {changed:,} new or changed.")
    return 0 if report.status == "ok" else 1


def _add_observation_commands(commands: Any) -> None:
    """Add the commands for observed numbers."""
    command = commands.add_parser("find", help="which definition of a KPI gives the numbers of the file; 1: none")
    command.add_argument("--kpi", required=True, help="a column of the weekly table, such as leads")
    command.add_argument(
        "--careless", action="store_true", help="up to a third of the numbers may be off by one or two"
    )
    command.set_defaults(run=_find, tenant=False)

    command = commands.add_parser("observe", help="note a number that ServiceTitan shows, and hear what it says")
    command.add_argument("--kpi", default="", help="a KPI as people call it, such as Leads")
    command.add_argument("--bu", dest="unit", default="", help="a rolled-up unit")
    command.add_argument("--from", dest="first_day", default="", help="first day, such as 2025-08-18 or 8/18/25")
    command.add_argument("--to", dest="last_day", default="", help="last day, included")
    command.add_argument("--value", default="", help="the number as it is shown: 96, $1,234.56 or 39.74%%")
    command.add_argument("--tolerance", default="", help="the largest difference; default: half of the last digit")
    command.add_argument("--source", default="screen", help="api report, export file, screen (default) or said")
    command.add_argument("--report", default="", help="the report's name and its filters")
    command.add_argument("--by", dest="read_by", default="", help="who read it")
    command.add_argument("--undo", action="store_true", help="take back the number that was noted last")
    command.set_defaults(run=_observe, tenant=False)

    command = commands.add_parser("adopt", help="count a KPI by the definition that the numbers prove, from now on")
    command.add_argument("--kpi", required=True, help="a KPI as people call it, such as Leads")
    command.add_argument("--definition", default="", help="instead of the found one: status=completed, or default")
    command.add_argument("--undo", action="store_true", help="bring the definition before it back")
    command.set_defaults(run=_adopt, tenant=False)

    command = commands.add_parser("sql", help="the SQL of a KPI's definition, to check a number by hand")
    command.add_argument("--kpi", required=True, help="a KPI as people call it, such as Leads")
    command.add_argument("--definition", default="", help="another one than the company's: status=completed")
    command.set_defaults(run=_sql, tenant=False)


def _add_care_commands(commands: Any) -> None:
    """Add the commands that look after what the nights leave."""
    command = commands.add_parser("verify", help="read every row of the warehouse file: is it whole?")
    command.add_argument("--set-aside", action="store_true", help="rename it if it is not")
    command.set_defaults(run=_verify, tenant=False)

    command = commands.add_parser("heartbeat", help="has a nightly run begun lately? 1: no; for a schedule of its own")
    command.add_argument("--hours", type=float, default=26, help="how long ago it may have begun; default: %(default)s")
    command.add_argument("--runs", type=Path, help="the folder of all runs; default: the company's")
    command.set_defaults(run=_heartbeat, tenant=False)


def _add_old_commands(commands: Any) -> None:
    """Add the commands for what an older pipeline has written."""
    command = commands.add_parser("repair", help="link old invoices without a job to their job, by evidence")
    command.add_argument("--dry-run", action="store_true", help="show what would happen, and change nothing")
    command.add_argument(
        "--table", default="", help="invoices that another program wrote: st_raw_v2.raw_invoices; shown unless --apply"
    )
    command.add_argument("--apply", action="store_true", help="with --table: write")
    command.add_argument(
        "--from", dest="first", default="", help="first day on which the invoices were created; default: all"
    )
    command.add_argument("--to", dest="last", default="", help="last day, included")
    command.set_defaults(run=_repair, tenant=False)

    command = commands.add_parser(
        "takeover", help="what only the tables of an older pipeline have, and its views as text"
    )
    command.add_argument("--old", default=LOGICAL, help="its names, as DATASETS has ours; default: %(default)s")
    command.set_defaults(run=_takeover, tenant=False)


def main() -> int:
    """Run one command; return the exit code: 0 ok, 1 something failed, 2 usage error."""
    parser = argparse.ArgumentParser(prog="python -m stkpi", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("ingest", help="what changed since the last ingest")
    command.add_argument("--entities", default="all", help="comma-separated names, or all (default)")
    command.set_defaults(run=_ingest, tenant=True)

    command = commands.add_parser("setup", help="write or complete the company folder, and list what is a guess in it")
    command.set_defaults(run=_set_up, tenant=True)

    command = commands.add_parser("backfill", help="read one entity again for a range of days")
    command.add_argument("--entity", required=True)
    command.add_argument("--from", dest="first", required=True, help="first day, such as 2025-08-01")
    command.add_argument("--to", dest="last", required=True, help="last day, included")
    command.set_defaults(run=_backfill, tenant=True)

    command = commands.add_parser("rebuild", help="recompute all weeks of the marts, not only those that changed")
    command.add_argument("--as-of", default="", help="the last day to include; default: AS_OF, or today")
    command.set_defaults(run=_rebuild, tenant=False)

    command = commands.add_parser("status", help="per entity: last read, watermark, lag, rows in quarantine")
    command.set_defaults(run=_status, tenant=False)

    command = commands.add_parser("doctor", help="check what a run needs, and how to get what is missing")
    command.set_defaults(run=_doctor, tenant=False)

    command = commands.add_parser("validate", help="run every check of the warehouse; one line each")
    command.add_argument("--as-of", default="", help="the last day that the KPI tables must have; default: any")
    command.add_argument("--weeks", type=int, default=WEEKS, help="how many weeks count as recent")
    command.set_defaults(run=_validate, tenant=False)

    command = commands.add_parser(
        "reconcile", help="an export against our rows: 0 the same, 1 different, 2 not comparable"
    )
    command.add_argument(
        "--export",
        default="",
        help="an .xlsx or .csv file, or report:category/id; default: the KPI's saved report in company.yml",
    )
    command.add_argument("--kpi", default="", help="a column of the weekly table; default: what the columns say")
    command.add_argument("--bu", dest="unit", default="", help="a rolled-up unit; default: those that the export names")
    command.add_argument("--from", dest="first", default="", help="first day; default: the one that the export states")
    command.add_argument("--to", dest="last", default="", help="last day, included")
    command.add_argument("--masked", action="store_true", help="mask the customers' names, to pass the page on")
    command.add_argument("--out", type=Path, help="where the page goes; default: reconcile, in the runs")
    command.set_defaults(run=_reconcile, tenant=False)

    command = commands.add_parser("lab", help="open the notebooks in JupyterLab, with a tenant to talk to")
    command.set_defaults(run=_lab, tenant=True)

    _add_care_commands(commands)
    _add_old_commands(commands)
    _add_observation_commands(commands)

    options = parser.parse_args()
    try:
        if not options.tenant:
            return int(options.run(options))
        with sandbox_process.provide_tenant():
            return int(options.run(options))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except WarehouseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Nothing is lost: the next run resumes where this one stopped.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    terminal.run_command(main)
