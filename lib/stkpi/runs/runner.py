"""Execute the notebooks of a spec as one recorded run: `python -m stkpi.runner SPEC.yml [-p name=value ...]`.

A run leaves `runs/<run_id>/` (executed notebooks, pages with their CSV files, summary.json, validation.json), one line
per event in `runs/ledger.jsonl` and its row on `runs/index.html`. Exit codes: 0 all well, 1 a step failed or is
partial, 2 nothing but wrong use.
"""

import argparse
import ast
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from stkpi import settings
from stkpi.errors import UserError, WarehouseError
from stkpi.reporting import pages
from stkpi.runs import sandbox_process

AT_ONCE = 2
RUNS = settings.ROOT / "runs"
TYPES = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
LOOKS_SECRET = re.compile(r"secret|password|token|credential|(^|_)key(_|$)", re.IGNORECASE)
ATOMIC = "atomic:"


@dataclass(frozen=True)
class Step:
    """One notebook of the spec; its path is relative to the spec, `timeout` is the seconds that one cell may take."""

    name: str
    notebook: Path
    needs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: int = 3600

    @property
    def output(self) -> str:
        """The file name (without suffix) of what the step leaves: the notebook's number and the step's name."""
        return f"{self.notebook.stem.split('_')[0]}_{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What became of a step. `status`: ok, partial, failed, skipped or interrupted; `html` is relative to the run."""

    name: str
    status: str
    seconds: float = 0.0
    html: str | None = None
    error: str | None = None
    wrong_use: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the steps that need this one may start."""
        return self.status in ("ok", "partial")


class _Kernel(AsyncKernelManager):
    """Known to us, because an interrupted run has to interrupt its kernels (they live in sessions of their own)."""

    started: ClassVar[weakref.WeakSet["_Kernel"]] = weakref.WeakSet()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # ipykernel 7 offers encryption; the manager's default refuses it with a warning per kernel.
        super().__init__(*args, transport_encryption="auto", **kwargs)
        self.started.add(self)

    @classmethod
    def signal_all(cls, number: signal.Signals) -> None:
        for kernel in set(cls.started):
            if kernel.has_kernel and kernel.provisioner.pid:
                os.kill(kernel.provisioner.pid, number)


class _AtomicFiles(LocalHandler):
    """papermill truncates and rewrites its output at every cell: a kill in between would leave half a notebook."""

    def write(self, buf: str, path: str) -> None:
        _write(Path(path.removeprefix(ATOMIC)), buf)


papermill_io.register(ATOMIC, _AtomicFiles())


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


# --- the spec and its parameters ------------------------------------------------------------------------------------


def read_spec(path: Path) -> tuple[Step, ...]:
    """The steps of a spec (YAML: `steps:` with name, notebook, needs, parameters, timeout), in its order.

    Raises UserError for a file that is missing or does not hold together: a field unknown, a need that is no step or
    goes in a circle, two steps of one name, a notebook that is not there.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["steps"]
        steps = tuple(Step(**entry | {"notebook": path.parent / entry["notebook"]}) for entry in entries)
        TopologicalSorter({step.name: step.needs for step in steps}).prepare()
    except FileNotFoundError:
        raise UserError(f"There is no {path}: name the file that lists the notebooks to run.") from None
    except CycleError as error:
        raise UserError(f"{path}: the steps {' → '.join(error.args[1])} wait for each other.") from None
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not a list of steps (name, notebook, needs, parameters, timeout): {error}"
        ) from None
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two steps have one name; give each its own.")
    for step in steps:
        if unknown := sorted(set(step.needs) - set(names)):
            raise UserError(f"{path}: step {step.name} needs {unknown[0]}, which is no step.")
        if not step.notebook.exists():
            raise UserError(f"{path}: step {step.name} names {step.notebook}, which is not there.")
    return steps


def parameter_types(notebook: Path) -> dict[str, str]:
    """The parameters a notebook takes, name to type name: the `name: type = literal` lines of its parameters cell."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    return {
        line.target.id: ast.unparse(line.annotation)
        for line in ast.parse(source).body
        if isinstance(line, ast.AnnAssign)
    }


def _typed(name: str, value: Any, wanted: str) -> Any:
    if LOOKS_SECRET.search(name):
        raise UserError(f"Parameter {name} looks like a secret, and parameters are printed: put it into .env.")
    if type(value) not in TYPES[wanted]:
        raise UserError(f"Parameter {name} takes a value of type {wanted}, not {value!r}.")
    return value


def with_parameters(steps: Sequence[Step], given: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps with `given` (texts of a command line) added to every notebook that declares the name.

    Raises UserError for a name that no notebook declares (papermill would only warn), a value of another type, or a
    name that looks like a secret.
    """
    declared = {step.name: parameter_types(step.notebook) for step in steps}
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
        checked = {name: _typed(name, value, types[name]) for name, value in values.items()}
        result.append(replace(step, parameters=checked))
    return tuple(result)


# --- the ledger -----------------------------------------------------------------------------------------------------


def append_event(ledger: Path, **event: Any) -> None:
    """Append one event to the ledger and have it on the disk when this returns."""
    with ledger.open("a", encoding="utf-8") as file:
        # The newline comes first: it also ends a line that a kill has torn, so that only that line is lost.
        file.write("\n" + json.dumps({"at": _now(), **event}))
        file.flush()
        os.fsync(file.fileno())


def read_runs(ledger: Path, running: str | None = None) -> list[dict[str, Any]]:
    """Every run of the ledger, newest first, each with run_id, status, started_at, finished_at, sandbox and steps.

    A run that began and neither ended nor is the one `running` now was cut off: its status is "interrupted".
    """
    runs: dict[str, dict[str, Any]] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        run_id = event["run_id"]
        if event["event"] == "started":
            status = "running" if run_id == running else "interrupted"
            runs[run_id] = {"status": status, "started_at": event["at"], "finished_at": None, "steps": [], **event}
        elif run_id in runs and event["event"] == "step":
            runs[run_id]["steps"].append(event)
        elif run_id in runs:
            runs[run_id] |= {"status": event["status"], "finished_at": event["at"]}
    return list(reversed(runs.values()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- running --------------------------------------------------------------------------------------------------------


def _execute(step: Step, folder: Path, sandbox: bool) -> Outcome:
    started = time.monotonic()
    output = (folder / f"{step.output}.ipynb").resolve()
    status, error, wrong_use = "ok", None, False
    try:
        papermill.execute_notebook(
            str(step.notebook),
            f"{ATOMIC}{output}",
            dict(step.parameters),
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,  # the progress of long work
            execution_timeout=step.timeout,
            kernel_manager_class=_Kernel,
            shutdown_kernel="immediate",  # a graceful shutdown waits for seconds on some kernels
        )
    except PapermillExecutionError as raised:
        first_line = (raised.evalue.strip().splitlines() or [""])[0]
        if raised.ename == "KeyboardInterrupt":
            status, error = "interrupted", "Stopped before its end: run again, finished work is kept."
        else:
            wrong_use = raised.ename == UserError.__name__
            a_sentence = wrong_use or raised.ename == WarehouseError.__name__
            status, error = "failed", first_line if a_sentence else f"{raised.ename}: {first_line}".rstrip(": ")
    except DeadKernelError:
        status, error = "failed", "The notebook's process died, most often for want of memory."
    except CellTimeoutError:
        status, error = "failed", f"A cell took longer than the {step.timeout} s of its step's timeout."
    except Exception as raised:  # a full disk, no kernel: the step failed, the run goes on
        status, error = "failed", f"{type(raised).__name__}: {(str(raised).splitlines() or [''])[0]}"
    html, figures = None, {}
    if output.exists():
        notebook = nbformat.read(output, as_version=4)
        figures = pages.recorded(notebook)
        if error is None:
            status, error = figures.pop("status", "ok"), figures.pop("error", None)
        for name, content in figures.pop("files", {}).items():
            _write(folder / Path(name).name, content)
        html = f"{step.output}.html"
        _write(folder / html, pages.render_notebook(notebook, error=error, sandbox=sandbox))
    return Outcome(step.name, status, round(time.monotonic() - started, 1), html, error, wrong_use, figures)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets while the block runs; kernels are interrupted, at the second one killed."""
    stop = threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        _Kernel.signal_all(signal.SIGKILL if stop.is_set() else signal.SIGINT)
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
    """Execute every step after what it needs, AT_ONCE at a time, and report each when it ends.

    A step whose need is not usable is skipped, and so is the rest once `stop` is set. Returns in the steps' order.
    """
    by_name = {step.name: step for step in steps}
    outcomes: dict[str, Outcome] = {}

    def attempt(step: Step) -> Outcome:
        lost = [need for need in step.needs if not outcomes[need].usable]
        if stop.is_set():
            return Outcome(step.name, "skipped", error="Not run, because the run was interrupted.")
        if lost:
            return Outcome(step.name, "skipped", error=f"Not run, because it needs {', '.join(lost)}.")
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


def _status(outcomes: Sequence[Outcome]) -> str:
    statuses = {outcome.status for outcome in outcomes}
    if statuses <= {"ok", "partial"}:
        return "partial" if "partial" in statuses else "ok"
    return "failed"


def summary(run_id: str, started_at: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The content of summary.json: the run, its steps, and the figures that the notebooks recorded."""
    current = settings.load()
    figures = _figures(outcomes)
    return {
        "run_id": run_id,
        "started_at": started_at,
        "finished_at": _now(),
        "status": _status(outcomes),
        "as_of": figures.get("as_of") or (current.as_of.isoformat() if current.as_of else None),
        "warehouse": f"bigquery:{current.bq_project}" if current.bq_project else str(current.warehouse),
        "steps": [_told(outcome) for outcome in outcomes],
        "ingest": figures.get("ingest", {}),
        "checks": {"red": 0, "yellow": 0, "green": 0} | figures.get("checks", {}),
        "observed": {"matched": 0, "unmatched": 0, "open": 0} | figures.get("observed", {}),
    }


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {key: value for outcome in outcomes for key, value in outcome.figures.items()}


def run(spec: Path | str, parameters: Mapping[str, str] | None = None, runs: Path = RUNS) -> int:
    """Execute a spec with the `parameters` of a command line; return the exit code (0 well, 1 not, 2 wrong use).

    Raises UserError, before anything is written, for a bad spec or parameter, or when another run is going on.
    """
    steps = with_parameters(read_spec(Path(spec)), parameters or {})
    runs.mkdir(exist_ok=True)
    try:
        lock = FileLock(runs / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError("Another run is going on: wait for its end, runs/index.html shows it.") from None
    with lock, sandbox_process.tenant() as sandbox, _stopping() as stop:
        return _run(steps, runs, sandbox, stop)


def _run(steps: Sequence[Step], runs: Path, sandbox: bool, stop: threading.Event) -> int:
    ledger, index = runs / "ledger.jsonl", runs / "index.html"
    run_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    folder = runs / run_id
    folder.mkdir()

    def note(event: str, **details: Any) -> None:
        append_event(ledger, event=event, run_id=run_id, **details)
        _write(index, pages.render_index(read_runs(ledger, running=run_id)))

    def report(outcome: Outcome) -> None:
        rows = sum(entity["loaded"] for entity in outcome.figures.get("ingest", {}).values())
        note("step", **_told(outcome), rows=rows)
        if outcome.status != "skipped":  # the page tells why; a list of them would hide the sentence that matters
            print(_line(outcome, folder), *outcome.figures.get("lines", ()), sep="\n  ", flush=True)

    started_at = _now()
    note("started", sandbox=sandbox)
    outcomes = _run_graph(steps, lambda step: _execute(step, folder, sandbox), report, stop)
    _write(folder / "summary.json", json.dumps(summary(run_id, started_at, outcomes), indent=2))
    if validation := _figures(outcomes).get("validation"):
        _write(folder / "validation.json", json.dumps(validation, indent=2))
    status = "interrupted" if stop.is_set() and _status(outcomes) == "failed" else _status(outcomes)
    note("finished", status=status)
    if skipped := [outcome.name for outcome in outcomes if outcome.status == "skipped"]:
        print(f"Not run: {', '.join(skipped)}.")
    print(f"The run is {status}: {index}", flush=True)
    bad = [outcome for outcome in outcomes if outcome.status not in ("ok", "skipped")]
    if bad and all(outcome.wrong_use for outcome in bad):
        return 2
    return 0 if status == "ok" else 1


def _told(outcome: Outcome) -> dict[str, Any]:
    """What summary.json and the ledger tell of a step."""
    told = {key: getattr(outcome, key) for key in ("name", "status", "seconds", "html", "error")}
    return told | {key: outcome.figures[key] for key in ("bytes_billed",) if key in outcome.figures}


def _line(outcome: Outcome, folder: Path) -> str:
    line = f"{outcome.name:<20} {outcome.status:<11} {outcome.seconds:7.1f} s"
    if "bytes_billed" in outcome.figures:
        line += f"{outcome.figures['bytes_billed'] / 1e6:10,.1f} MB billed"
    if outcome.error:
        line += f"  {outcome.error}"
    if outcome.status == "failed" and not outcome.wrong_use:
        page = folder / (outcome.html or "")
        line = f"{line.rstrip('.')}. Open {page}, mend the cause and run again: finished work is kept."
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stkpi.runner", description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, help="the YAML file that lists the notebooks")
    explained = "a parameter for every notebook that declares it"
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value", help=explained)
    options = parser.parse_args(arguments)
    for talkative in ("papermill", "asyncio"):  # every outcome is told below, in one line
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    try:
        pairs = [text.partition("=") for text in options.parameters]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise UserError(f"-p {wrong[0]} has no value: write -p {wrong[0]}=value.")
        return run(options.spec, {name: value for name, _, value in pairs}, RUNS)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
