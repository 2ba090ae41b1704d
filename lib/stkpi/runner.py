"""Execute the notebooks of a spec as one recorded run: `python -m stkpi.runner SPEC.yml [-p name=value ...]`.

A run leaves `runs/<run_id>/` (executed notebooks, pages, summary.json), one line per event in `runs/ledger.jsonl`
and its row on `runs/index.html`. Exit codes: 0 all well, 1 a step failed or is partial, 2 wrong use.
"""

import argparse
import ast
import json
import logging
import os
import re
import signal
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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

from stkpi import demo, pages, settings
from stkpi.errors import UserError

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
    def interrupt_all(cls) -> None:
        for kernel in cls.started:
            if kernel.has_kernel and kernel.provisioner.pid:
                os.kill(kernel.provisioner.pid, signal.SIGINT)


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
            execution_timeout=step.timeout,
            kernel_manager_class=_Kernel,
            shutdown_kernel="immediate",  # a graceful shutdown waits for seconds on some kernels
        )
    except PapermillExecutionError as raised:
        first_line = raised.evalue.strip().splitlines() or [""]
        wrong_use = raised.ename == UserError.__name__
        status = "interrupted" if raised.ename == "KeyboardInterrupt" else "failed"
        error = first_line[0] if wrong_use else f"{raised.ename}: {first_line[0]}"
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
        html = f"{step.output}.html"
        _write(folder / html, pages.render_notebook(notebook, error=error, sandbox=sandbox))
    return Outcome(step.name, status, round(time.monotonic() - started, 1), html, error, wrong_use, figures)


def _run_graph(steps: Sequence[Step], execute: Callable[[Step], Outcome], report: Callable[[Outcome], None]) -> None:
    """Execute every step after what it needs, AT_ONCE at a time; skip a step whose need is not usable."""
    by_name = {step.name: step for step in steps}
    graph = TopologicalSorter({step.name: step.needs for step in steps})
    graph.prepare()
    outcomes: dict[str, Outcome] = {}
    running: set[Future[Outcome]] = set()
    interrupted = False

    def finish(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        report(outcome)
        graph.done(outcome.name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        while graph.is_active():
            for name in graph.get_ready():
                lost = [need for need in by_name[name].needs if not outcomes[need].usable]
                if interrupted or lost:
                    reason = "the run was interrupted" if interrupted else f"it needs {', '.join(lost)}"
                    finish(Outcome(name, "skipped", error=f"not run, because {reason}"))
                else:
                    running.add(pool.submit(execute, by_name[name]))
            try:
                done, running = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                interrupted = True
                _Kernel.interrupt_all()
                continue
            for future in done:
                finish(future.result())


def _status(outcomes: Sequence[Outcome]) -> str:
    statuses = {outcome.status for outcome in outcomes}
    if "interrupted" in statuses:
        return "interrupted"
    if statuses <= {"ok", "partial"}:
        return "partial" if "partial" in statuses else "ok"
    return "failed"


def summary(run_id: str, started_at: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The content of summary.json: the run, its steps, and the figures that the notebooks recorded."""
    current = settings.load()
    figures = {key: value for outcome in outcomes for key, value in outcome.figures.items()}
    status = _status(outcomes)
    return {
        "run_id": run_id,
        "started_at": started_at,
        "finished_at": _now(),
        "status": "failed" if status == "interrupted" else status,
        "as_of": figures.get("as_of") or (current.as_of.isoformat() if current.as_of else None),
        "warehouse": f"bigquery:{current.bq_project}" if current.bq_project else str(current.warehouse),
        "steps": [
            {key: getattr(outcome, key) for key in ("name", "status", "seconds", "html", "error")}
            for outcome in outcomes
        ],
        "ingest": figures.get("ingest", {}),
        "checks": {"red": 0, "yellow": 0, "green": 0} | figures.get("checks", {}),
        "observed": {"matched": 0, "unmatched": 0, "open": 0} | figures.get("observed", {}),
    }


def run(spec: Path | str, parameters: Mapping[str, str] | None = None, runs: Path = RUNS) -> int:
    """Execute a spec with the `parameters` of a command line; return the exit code (0 well, 1 not, 2 wrong use).

    Raises UserError, before anything is written, for a bad spec or parameter, or when another run is going on.
    """
    steps = with_parameters(read_spec(Path(spec)), parameters or {})
    runs.mkdir(exist_ok=True)
    try:
        with FileLock(runs / ".lock", timeout=0), demo.tenant() as sandbox:
            return _run(steps, runs, sandbox)
    except Timeout:
        raise UserError("Another run is going on: wait for its end, runs/index.html shows it.") from None


def _run(steps: Sequence[Step], runs: Path, sandbox: bool) -> int:
    ledger = runs / "ledger.jsonl"
    run_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    folder = runs / run_id
    folder.mkdir()
    started_at = _now()
    append_event(ledger, event="started", run_id=run_id, sandbox=sandbox)
    outcomes: list[Outcome] = []

    def record(*outcome: Outcome) -> None:
        for each in outcome:
            outcomes.append(each)
            rows = sum(entity["loaded"] for entity in each.figures.get("ingest", {}).values())
            append_event(
                ledger,
                event="step",
                run_id=run_id,
                name=each.name,
                status=each.status,
                seconds=each.seconds,
                html=each.html,
                error=each.error,
                rows=rows,
            )
            print(_line(each, folder), flush=True)
        _write(runs / "index.html", pages.render_index(read_runs(ledger, running=run_id)))

    record()
    _run_graph(steps, lambda step: _execute(step, folder, sandbox), record)
    order = [step.name for step in steps]
    outcomes.sort(key=lambda outcome: order.index(outcome.name))
    result = summary(run_id, started_at, outcomes)
    _write(folder / "summary.json", json.dumps(result, indent=2))
    append_event(ledger, event="finished", run_id=run_id, status=_status(outcomes))
    _write(runs / "index.html", pages.render_index(read_runs(ledger)))
    print(f"{_status(outcomes)}: {runs / 'index.html'}", flush=True)
    if any(outcome.wrong_use for outcome in outcomes):
        return 2
    return 0 if result["status"] == "ok" else 1


def _line(outcome: Outcome, folder: Path) -> str:
    line = f"{outcome.name:<20} {outcome.status:<11} {outcome.seconds:7.1f} s"
    if outcome.error:
        line += f"  {outcome.error}"
    if outcome.status == "failed" and not outcome.wrong_use:
        line = (
            line.rstrip(".")
            + f". Open {folder / (outcome.html or '')}, mend the cause and run again: finished work is kept."
        )
    return line


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stkpi.runner", description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, help="the YAML file that lists the notebooks")
    parser.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="name=value",
        help="a parameter for every notebook that declares it",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    for talkative in ("papermill", "asyncio"):  # every outcome is told below, in one line
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    try:
        pairs = [text.partition("=") for text in options.parameters]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise UserError(f"-p {wrong[0]} has no value: write -p {wrong[0]}=value.")
        return run(options.spec, {name: value for name, _, value in pairs})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
