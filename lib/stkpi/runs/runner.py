"""Execute the notebooks of a spec as one recorded run: `python -m stkpi.runner SPEC.yml [-p name=value ...]`.

A run leaves `runs/<run_id>/` (executed notebooks, pages with their CSV files, summary.json, validation.json), one line
per event in `runs/history.jsonl` and its row on `runs/index.html`. Exit codes: 0 all steps ok; 1 a step failed or is
partial; 2 usage errors only.
"""

import argparse
import ast
import json
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from stkpi import settings
from stkpi.errors import UserError, WarehouseError, explain_os_error
from stkpi.reporting import pages, site
from stkpi.runs import digest, history, home, sandbox_process
from stkpi.runs.kernels import Kernel, prepare_kernels

AT_ONCE = 2
RESERVE = 4_000_000  # bytes that are given back at the end of a run, so that a full disk has room for its last words
TYPES = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
LOOKS_SECRET = re.compile(r"secret|password|token|credential|(^|_)key(_|$)", re.IGNORECASE)
ATOMIC = "atomic:"
PAGES = "pages"  # the step that the runner does itself


@dataclass(frozen=True)
class Step:
    """One notebook of the spec. `needs`: the steps that must end first; `timeout`: seconds that one cell may take."""

    name: str
    notebook: Path
    needs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: int = 3600

    @property
    def output(self) -> str:
        """The name of the step's files, without suffix: the number of the notebook and the name of the step."""
        return f"{self.notebook.stem.split('_')[0]}_{self.name}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step.

    status: ok, partial, failed, skipped or interrupted
    html: its page, relative to the folder of the run
    figures: what the notebook recorded
    """

    name: str
    status: str
    seconds: float = 0.0
    html: str | None = None
    error: str | None = None
    usage_error: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the steps that need this one may start."""
        return self.status in ("ok", "partial")


class _AtomicFiles(LocalHandler):
    """Write notebooks atomically: papermill rewrites its output at every cell, and a kill would leave half of it."""

    def write(self, buf: str, path: str) -> None:
        pages.write_text(Path(path.removeprefix(ATOMIC)), buf)


papermill_io.register(ATOMIC, _AtomicFiles())


# --- the spec and its parameters ------------------------------------------------------------------------------------


def read_spec(path: Path) -> tuple[Step, ...]:
    """Read the steps of a spec (YAML: `steps:` with name, notebook, needs, parameters, timeout), in its order.

    The path of a notebook is relative to the spec. Raises UserError for a missing file, an unknown field or step, steps
    that wait for each other, two steps with the same name, and a missing notebook.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["steps"]
        steps = tuple(Step(**entry | {"notebook": path.parent / entry["notebook"]}) for entry in entries)
        TopologicalSorter({step.name: step.needs for step in steps}).prepare()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name the YAML file that lists the notebooks to run.") from None
    except CycleError as error:
        raise UserError(
            f"{path}: the steps {' → '.join(error.args[1])} wait for each other: remove one of their `needs`."
        ) from None
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not a list of steps (name, notebook, needs, parameters, timeout): {error}"
        ) from None
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two steps have the same name; give each its own.")
    for step in steps:
        if unknown := sorted(set(step.needs) - set(names)):
            raise UserError(f"{path}: step {step.name} needs the unknown step {unknown[0]}.")
        if not step.notebook.exists():
            raise UserError(f"{path}: the notebook of step {step.name} does not exist: {step.notebook}.")
    return steps


def read_parameter_types(notebook: Path) -> dict[str, str]:
    """Read the parameters of a notebook, {name: type name}: the `name: type = literal` lines of its parameters cell."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in ast.parse(source).body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _check_value(name: str, value: Any, wanted: str) -> Any:
    """Return the value. Raises UserError if it is not of the wanted type, or may be a secret."""
    if LOOKS_SECRET.search(name):
        raise UserError(
            f"Parameter {name} looks like a secret, and parameters are visible in the pages: put it into .env."
        )
    if type(value) not in TYPES[wanted]:
        raise UserError(f"Parameter {name} takes a value of type {wanted}, not {value!r}.")
    return value


def apply_parameters(steps: Sequence[Step], given: Mapping[str, str]) -> tuple[Step, ...]:
    """Add `given` (texts of a command line) to the parameters of every step whose notebook declares the name.

    Raises UserError for a name that no notebook declares (papermill would only warn), a value of another type, or a
    name that looks like a secret.
    """
    declared = {step.name: read_parameter_types(step.notebook) for step in steps}
    known = sorted(set().union(*declared.values()))
    for name in given:
        if name not in known:
            raise UserError(f"Unknown parameter {name}: the notebooks take {', '.join(known) or 'none'}.")
    result = []
    for step in steps:
        types = declared[step.name]
        for name in step.parameters:
            if name not in types:
                raise UserError(f"Unknown parameter {name}: {step.notebook} takes {', '.join(types) or 'none'}.")
        texts = {
            name: text if types[name] == "str" else yaml.safe_load(text)
            for name, text in given.items()
            if name in types
        }
        values = {**step.parameters, **texts}
        checked = {name: _check_value(name, value, types[name]) for name, value in values.items()}
        result.append(replace(step, parameters=checked))
    return tuple(result)


# --- running --------------------------------------------------------------------------------------------------------


def _execute(step: Step, folder: Path, sandbox: bool) -> Outcome:
    """Execute the notebook of a step and write its page; any error becomes part of the outcome."""
    started = time.monotonic()
    output = (folder / f"{step.output}.ipynb").resolve()
    status, error, usage_error = _run_notebook(step, output)
    html: str | None = None
    figures: dict[str, Any] = {}
    try:
        if output.exists():
            notebook = nbformat.read(output, as_version=4)
            figures = pages.read_recorded(notebook)
            if error is None:
                status, error = figures.pop("status", "ok"), figures.pop("error", None)
            for name, content in figures.pop("files", {}).items():
                pages.write_text(folder / Path(name).name, content)
            page = pages.render_notebook(notebook, error=error, sandbox=sandbox)
            pages.write_text(folder / f"{step.output}.html", page)
            html = f"{step.output}.html"
    except Exception as raised:  # its work is done, but nobody can see it
        status, error = "failed", error or f"Its page was not written. {_explain(raised)}"
    return Outcome(step.name, status, round(time.monotonic() - started, 1), html, error, usage_error, figures)


def _run_notebook(step: Step, output: Path) -> tuple[str, str | None, bool]:
    """Execute the notebook; return the status, the error, and whether that is a usage error."""
    status, error, usage_error = "failed", "", False
    try:
        papermill.execute_notebook(
            str(step.notebook),
            f"{ATOMIC}{output}",
            dict(step.parameters),
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,  # the progress of long work
            execution_timeout=step.timeout,
            kernel_manager_class=Kernel,
            shutdown_kernel="immediate",  # a graceful shutdown waits for some seconds
        )
        status = "ok"
    except PapermillExecutionError as raised:
        error = (raised.evalue.strip().splitlines() or [""])[0]
        if raised.ename == "KeyboardInterrupt":
            status, error = "interrupted", "Interrupted: run again; finished work is kept."
        elif raised.ename not in (UserError.__name__, WarehouseError.__name__):
            error = explain_os_error(error) or f"{raised.ename}: {error}".rstrip(": ")
        usage_error = raised.ename == UserError.__name__
    except DeadKernelError:
        error = "The notebook's process died, most likely because the machine ran out of memory."
    except CellTimeoutError:
        error = f"A cell took longer than {step.timeout} s, the timeout of its step."
    except Exception as raised:  # a full disk, no kernel: the step failed, the others go on
        error = _explain(raised)
    return status, error or None, usage_error


def _explain(error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    if isinstance(error, UserError | WarehouseError):
        return first_line
    return explain_os_error(first_line) or f"{type(error).__name__}: {first_line}".rstrip(": ")


@contextmanager
def _handle_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; the first one interrupts all kernels, the second one kills them."""
    stop = threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        Kernel.signal_all(signal.SIGKILL if stop.is_set() else signal.SIGINT)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_graph(
    steps: Sequence[Step], execute: Callable[[Step], Outcome], report: Callable[[Outcome], None], stop: threading.Event
) -> list[Outcome]:
    """Execute every step after the steps it needs, AT_ONCE at a time, and report each when it ends.

    A step is skipped if a step it needs is not usable, or once `stop` is set. Returns in the order of the steps.
    """
    by_name = {step.name: step for step in steps}
    outcomes: dict[str, Outcome] = {}

    def attempt(step: Step) -> Outcome:
        unusable = [need for need in step.needs if not outcomes[need].usable]
        if stop.is_set():
            return Outcome(step.name, "skipped", error="Not run because the run was interrupted.")
        if unusable:
            return Outcome(step.name, "skipped", error=f"Not run because it needs {', '.join(unusable)}.")
        return execute(step)

    graph = TopologicalSorter({step.name: step.needs for step in steps})
    graph.prepare()
    running: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while graph.is_active():
            running |= {pool.submit(attempt, by_name[name]) for name in graph.get_ready()}
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in done):
                outcomes[outcome.name] = outcome
                report(outcome)
                graph.done(outcome.name)
    return [outcomes[step.name] for step in steps]


def _combine_statuses(outcomes: Sequence[Outcome]) -> str:
    statuses = {outcome.status for outcome in outcomes}
    if statuses <= {"ok", "partial"}:
        return "partial" if "partial" in statuses else "ok"
    return "failed"


def summarize(run_id: str, started_at: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the content of summary.json: the run, its steps, and the figures that the notebooks recorded."""
    current = settings.load()
    figures = _merge_figures(outcomes)
    return {
        "run_id": run_id,
        "started_at": started_at,
        "finished_at": history.format_now(),
        "status": _combine_statuses(outcomes),
        "as_of": figures.get("as_of") or (current.as_of.isoformat() if current.as_of else None),
        "warehouse": f"bigquery:{current.bq_project}" if current.bq_project else str(current.warehouse),
        "steps": [_to_dict(outcome) for outcome in outcomes],
        "ingest": figures.get("ingest", {}),
        "checks": {"red": 0, "yellow": 0, "green": 0} | figures.get("checks", {}),
        "observed": {"matched": 0, "unmatched": 0, "open": 0} | figures.get("observed", {}),
    }


def _merge_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {key: value for outcome in outcomes for key, value in outcome.figures.items()}


def run_spec(spec: Path | str, parameters: Mapping[str, str] | None = None, runs: Path | None = None) -> int:
    """Execute a spec; return the exit code (0 ok, 1 a step failed or is partial, 2 usage errors only).

    parameters: names and values as on a command line
    runs: the folder in which the run gets its own; default: the company's
    Raises UserError, before anything is written, for a bad spec or parameter, or if another run is going on.
    """
    steps = apply_parameters(read_spec(Path(spec)), parameters or {})
    runs = runs or settings.load().runs
    runs.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(runs / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another run is going on: wait until it ends; {runs / 'index.html'} shows it.") from None
    prepare_kernels([step.notebook for step in steps], AT_ONCE)
    with lock, sandbox_process.provide_tenant() as sandbox, _handle_signals() as stop:
        return _run_steps(steps, runs, sandbox, stop)


def _run_steps(steps: Sequence[Step], runs: Path, sandbox: bool, stop: threading.Event) -> int:
    """Execute the steps as one run, record it and print a line per step; return the exit code."""
    file, index, reserve = history.find_history(runs), runs / "index.html", runs / ".reserve"
    run_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    folder = runs / run_id
    folder.mkdir()
    try:
        reserve.write_bytes(bytes(RESERVE))
    except OSError:
        reserve.unlink(missing_ok=True)
        raise
    waiting: list[dict[str, Any]] = []

    def record(event: str, **details: Any) -> None:
        waiting.append({"at": history.format_now(), "event": event, "run_id": run_id, **details})
        while waiting:
            history.append_event(file, **waiting[0])
            waiting.pop(0)
        home.write_home(runs, running=run_id)

    def report(outcome: Outcome) -> None:
        rows = sum(entity["loaded"] for entity in outcome.figures.get("ingest", {}).values())
        if outcome.status != "skipped":  # a list of skipped steps would hide the error that matters
            print(_format_line(outcome, folder), *outcome.figures.get("lines", ()), sep="\n  ", flush=True)
        with suppress(OSError):  # a full disk must not end the night: what could not be written is, at its end
            record("step", **_to_dict(outcome), rows=rows)

    started_at = history.format_now()
    record("started", sandbox=sandbox)
    outcomes = _run_graph(steps, lambda step: _execute(step, folder, sandbox), report, stop)
    figures = _merge_figures(outcomes)
    if "tables" in figures:
        outcomes.append(_write_site(runs, run_id, figures))
        report(outcomes[-1])
    reserve.unlink(missing_ok=True)
    status = _combine_statuses(outcomes)
    if stop.is_set() and status == "failed":
        status = "interrupted"
    try:
        if status == "ok":
            home.point_to(runs, run_id)
        pages.write_text(folder / "summary.json", json.dumps(summarize(run_id, started_at, outcomes), indent=2))
        if validation := figures.get("validation"):
            pages.write_text(folder / "validation.json", json.dumps(validation, indent=2))
        if week := digest.read_week(runs, folder)[1]:
            pages.write_text(folder / digest.FILE, week)
    finally:
        record("finished", status=status)
    if skipped := [outcome.name for outcome in outcomes if outcome.status == "skipped"]:
        print(f"Not run: {', '.join(skipped)}.")
    print(f"Run {status}: {index}", flush=True)
    bad = [outcome for outcome in outcomes if outcome.status not in ("ok", "skipped")]
    if bad and all(outcome.usage_error for outcome in bad):
        return 2
    return 0 if status == "ok" else 1


def _write_site(runs: Path, run_id: str, figures: Mapping[str, Any]) -> Outcome:
    """Write the pages of the figures that the run built; any error becomes part of the outcome."""
    started = time.monotonic()
    try:
        written = site.write_site(runs, run_id, date.fromisoformat(figures["as_of"]), figures.get("explained"))
    except Exception as raised:  # the figures are in the warehouse all the same
        return Outcome(PAGES, "failed", round(time.monotonic() - started, 1), error=_explain(raised))
    seconds = round(time.monotonic() - started, 1)
    return Outcome(PAGES, "ok", seconds, html=f"../{site.EXPLORE}", figures={"lines": [written.line]})


def _to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of a step in summary.json and in the history."""
    fields = {key: getattr(outcome, key) for key in ("name", "status", "seconds", "html", "error")}
    return fields | {key: outcome.figures[key] for key in ("bytes_billed",) if key in outcome.figures}


def _format_line(outcome: Outcome, folder: Path) -> str:
    """Return the line on the terminal for a step: name, status, seconds, bytes billed, error and what to do."""
    line = f"{outcome.name:<20} {outcome.status:<11} {outcome.seconds:7.1f} s"
    if "bytes_billed" in outcome.figures:
        line += f"{outcome.figures['bytes_billed'] / 1e6:10,.1f} MB billed"
    if outcome.error:
        line += f"  {outcome.error}"
    if outcome.status == "failed" and not outcome.usage_error:
        page = folder / (outcome.html or "")
        line = f"{line.rstrip('.')}. Open {page}, fix the cause and run again; finished work is kept."
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stkpi.runner", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path, help="the YAML file that lists the notebooks")
    explained = "a parameter for every notebook that declares it"
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value", help=explained)
    options = parser.parse_args(arguments)
    for name in ("papermill", "asyncio"):  # the runner prints one line per step instead
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        pairs = [text.partition("=") for text in options.parameters]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise UserError(f"-p {wrong[0]} has no value: write -p {wrong[0]}=value.")
        return run_spec(options.spec, {name: value for name, _, value in pairs})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
