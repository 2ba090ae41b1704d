"""The runner: what a night leaves behind when all goes well, and in each way in which a notebook can fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
import yaml
from filelock import FileLock

from stkpi import settings
from stkpi.errors import UserError
from stkpi.runs import history, runner, sandbox_process

NOTEBOOKS = Path(__file__).parent / "notebooks"
STEPS = [
    {"name": "fine", "notebook": "01_ok.ipynb"},
    {"name": "some", "notebook": "02_partial.ipynb"},
    {"name": "bug", "notebook": "03_raises.ipynb"},
    {"name": "wrong", "notebook": "04_user_error.ipynb"},
    {"name": "dead", "notebook": "05_dead_kernel.ipynb"},
    {"name": "slow", "notebook": "06_slow.ipynb", "timeout": 1},
    {"name": "after", "notebook": "01_ok.ipynb", "needs": ["some"]},
    {"name": "never", "notebook": "01_ok.ipynb", "needs": ["bug", "some"]},
]


COMPANY = dict.fromkeys(map(str.upper, settings.CREDENTIALS), "a-company") | {"TIME_ZONE": "America/Denver"}


def spec(folder: Path, steps: list[dict]) -> Path:
    """A spec over the fixture notebooks."""
    path = folder / "spec.yml"
    path.write_text(
        yaml.safe_dump({"steps": [step | {"notebook": str(NOTEBOOKS / step["notebook"])} for step in steps]})
    )
    return path


@pytest.fixture(autouse=True)
def own_credentials(monkeypatch):
    """With credentials no sandbox is started; the fixture notebooks talk to nobody."""
    for name, value in COMPANY.items():
        monkeypatch.setenv(name, value)


class Night:
    """What one run with every kind of failure left behind."""

    def __init__(self, code: int, terminal: str, runs: Path) -> None:
        self.code, self.terminal, self.runs = code, terminal, runs
        (self.folder,) = (path for path in runs.iterdir() if path.is_dir())
        self.summary = json.loads((self.folder / "summary.json").read_text())
        self.steps = {step["name"]: step for step in self.summary["steps"]}


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    process = start(runs, spec(tmp_path_factory.mktemp("spec"), STEPS), "-p", "rows=7")
    terminal, complaints = process.communicate(timeout=300)
    assert complaints == ""
    return Night(process.returncode, terminal, runs)


COMMAND = """
import sys, pathlib
from stkpi.runs import runner
runs = pathlib.Path(sys.argv.pop(1))
runner.run_spec, run = lambda spec, given: run(spec, given, runs), runner.run_spec
sys.exit(runner.main())
"""


def start(runs: Path, *arguments: str | Path) -> subprocess.Popen:
    """The runner's command line in a process of its own, writing to `runs`."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, runs, *arguments],
        env=os.environ | COMPANY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60  # a busy machine takes its time
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.fault(72)
def test_every_kind_of_failure_has_its_status_and_the_others_run(night):
    assert {name: step["status"] for name, step in night.steps.items()} == {
        "fine": "ok",
        "some": "partial",
        "bug": "failed",
        "wrong": "failed",
        "dead": "failed",
        "slow": "failed",
        "after": "ok",
        "never": "skipped",
    }


def test_each_failure_is_one_sentence_with_its_cause(night):
    causes = {
        "some": "jobs: the API answered 500",
        "bug": "KeyError: 'lead'",
        "wrong": "swap the dates",
        "dead": "process died.*out of memory",
        "slow": "longer than 1 s.*timeout",
        "never": "needs bug",
    }
    errors = {name: step["error"] for name, step in night.steps.items() if step["error"]}
    assert errors.keys() == causes.keys()
    assert [name for name, cause in causes.items() if not re.search(cause, errors[name])] == []
    assert not any("\n" in error for error in errors.values())


def test_a_run_with_failures_ends_with_1(night):
    assert night.code == 1


def test_a_run_with_usage_errors_only_ends_with_2_and_its_sentence(tmp_path, capsys):
    steps = [STEPS[3], {"name": "after", "notebook": "01_ok.ipynb", "needs": ["wrong"]}]
    assert runner.run_spec(spec(tmp_path, steps), runs=tmp_path / "runs") == 2
    assert re.search(r" s  .*swap the dates\.\n", capsys.readouterr().out)


def test_terminal_has_one_line_per_step_and_says_what_to_do(night):
    lines = night.terminal.splitlines()
    assert len(lines) == len(STEPS) + 1
    (bug,) = (line for line in lines if line.startswith("bug"))
    assert re.fullmatch(rf"bug +failed +\d+\.\d s  KeyError: 'lead'\. Open {night.folder}/03_bug\.html, fix .*", bug)
    assert lines[-1] == f"Run failed: {night.runs / 'index.html'}"


def test_summary_is_as_the_contract_says(night):
    summary = dict(night.summary)
    assert list(summary) == [
        *("run_id", "started_at", "finished_at", "status", "as_of", "warehouse"),
        *("steps", "ingest", "checks", "observed"),
    ]
    assert summary["run_id"] == night.folder.name
    assert (summary["status"], summary["as_of"]) == ("failed", "2025-09-14")
    assert summary["ingest"] == {"jobs": {"fetched": 7, "loaded": 7, "quarantined": 0, "windows": 1, "seconds": 0.1}}
    assert summary["checks"] == {"red": 0, "yellow": 0, "green": 0}
    assert summary["observed"] == {"matched": 0, "unmatched": 0, "open": 0}
    assert list(night.steps["fine"]) == ["name", "status", "seconds", "html", "error"]
    assert night.steps["fine"]["html"] == "01_fine.html"


def test_pages_show_results_without_code_and_load_nothing(night):
    page = (night.folder / "01_fine.html").read_text()
    assert "All went well" in page
    assert ">7</td>" in page
    assert "@import" not in page
    assert "Recorded" not in page
    for path in night.runs.rglob("*.html"):
        assert not re.search(r"https?://|@import|<script|<link", path.read_text()), path


def test_page_of_a_failure_says_it_at_the_top(night):
    page = (night.folder / "03_bug.html").read_text()
    assert '<p class="note failed">KeyError: &#39;lead&#39;</p>' in page
    assert "Execution using papermill encountered" not in page


def test_index_links_the_pages(night):
    index = (night.runs / "index.html").read_text()
    assert f'href="{night.folder.name}/03_bug.html"' in index
    assert "14 rows loaded" in index


@pytest.mark.fault(47)
@pytest.mark.soak
def test_a_night_that_is_killed_between_two_notebooks_is_told_by_the_next(tmp_path):
    file, steps = tmp_path / "runs" / "history.jsonl", [STEPS[0], STEPS[6] | {"needs": ["fine"]}]
    process = start(tmp_path / "runs", spec(tmp_path, steps))
    wait_for(lambda: file.exists() and '"event":"step"' in file.read_text().replace(" ", ""))
    process.kill()
    process.communicate(timeout=20)
    (run,) = history.read_runs(file)
    assert (run["status"], [(step["name"], step["status"]) for step in run["steps"]]) == (
        "interrupted",
        [("fine", "ok")],
    )
    again = start(tmp_path / "runs", spec(tmp_path, steps))
    again.communicate(timeout=60)
    assert (again.returncode, [each["status"] for each in history.read_runs(file)]) == (0, ["ok", "interrupted"])
    index = (tmp_path / "runs" / "index.html").read_text()
    assert all(each["run_id"] in index for each in history.read_runs(file))


@pytest.mark.fault(44, 47)
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.soak)])
def test_a_stopped_run_is_marked_and_leaves_no_kernel(tmp_path, number):
    pid_file = tmp_path / "pid"
    steps = [
        {"name": "slow", "notebook": "06_slow.ipynb"},
        {"name": "after", "notebook": "01_ok.ipynb", "needs": ["slow"]},
    ]
    process = start(tmp_path / "runs", spec(tmp_path, steps), "-p", f"pid_file={pid_file}")
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    started = psutil.Process(process.pid).children(recursive=True)
    assert int(pid_file.read_text()) in [each.pid for each in started]
    process.send_signal(number)
    process.communicate(timeout=20)
    wait_for(lambda: not any(each.is_running() for each in started))
    (run,) = history.read_runs(tmp_path / "runs" / "history.jsonl")
    assert run["status"] == "interrupted"
    if number == signal.SIGTERM:
        assert process.returncode == 1
        assert [step["status"] for step in run["steps"]] == ["interrupted", "skipped"]
        assert "run again" in run["steps"][0]["error"]
        assert "the run was interrupted" in run["steps"][1]["error"]


WITHIN = """
import os, time
from stkpi.runs import sandbox_process
with sandbox_process.provide_tenant() as sandbox:
    print(sandbox, os.environ["ST_API_URL"], os.environ["AS_OF"], flush=True)
    time.sleep(60)
"""


def answers(url: str) -> bool:
    """Whether anything answers at a URL."""
    try:
        requests.get(url, timeout=5)
    except requests.RequestException:  # cut off in its answer, too
        return False
    return True


def test_without_credentials_a_sandbox_serves_as_long_as_its_command_lives():
    empty = dict.fromkeys([*map(str.upper, settings.CREDENTIALS), "COMPANY", "TIME_ZONE"], "")
    environment = os.environ | empty | {"SANDBOX_SCALE": "0.01", "AS_OF": "2025-08-24"}
    with subprocess.Popen(
        [sys.executable, "-c", WITHIN], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("No ServiceTitan credentials are set: using the sandbox")
        sandbox, url, as_of = process.stdout.readline().split()
        assert (sandbox, as_of) == ("True", "2025-08-24")
        assert answers(url)
        process.kill()
    wait_for(lambda: not answers(url))


def test_with_credentials_no_sandbox_is_started():
    with sandbox_process.provide_tenant() as sandbox:
        assert sandbox is False


def test_what_notebooks_import_is_imported_once_for_all_kernels(tmp_path):
    """Each kernel but the first is a fork of a process that has it."""
    cells = {"0": ["%time 1 + 1", "import wave"], "1": ["import sys\nassert 'wave' in sys.modules, 'imported again'"]}
    for name, sources in cells.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        nbformat.write(notebook, tmp_path / f"{name}_wave.ipynb")
    path = tmp_path / "spec.yml"
    path.write_text("steps: [{name: a, notebook: 0_wave.ipynb}, {name: b, notebook: 1_wave.ipynb, needs: [a]}]")
    process = start(tmp_path / "runs", path)
    terminal = process.communicate(timeout=60)
    assert process.returncode == 0, terminal


@pytest.mark.fault(45)
def test_a_second_run_at_once_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="Another run is going on"):
        runner.run_spec(spec(tmp_path, STEPS[:1]), runs=tmp_path)
    assert not (tmp_path / "history.jsonl").exists()


@pytest.mark.fault(47)
def test_ledger_loses_only_the_line_that_a_kill_has_torn(tmp_path):
    file = tmp_path / "history.jsonl"
    history.append_event(file, event="started", run_id="first", sandbox=True)
    with file.open("a") as torn:
        torn.write('\n{"event": "step", "run_id": "first", "na')
    history.append_event(file, event="started", run_id="second", sandbox=False)
    history.append_event(file, event="step", run_id="second", name="ingest", status="ok")
    history.append_event(file, event="finished", run_id="second", status="ok")
    history.append_event(file, event="started", run_id="third", sandbox=False)
    runs = history.read_runs(file, running="third")
    assert [(run["run_id"], run["status"], len(run["steps"])) for run in runs] == [
        ("third", "running", 0),
        ("second", "ok", 1),
        ("first", "interrupted", 0),
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"week": "3"}, "parameter week: .* label, rows"),
        ({"rows": "many"}, "rows .* type int, not 'many'"),
        ({"rows": "true"}, "rows .* type int, not True"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(tmp_path, given, sentence):
    with pytest.raises(UserError, match=sentence):
        runner.run_spec(spec(tmp_path, STEPS[:1]), given, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_command_ends_with_2_and_one_sentence(tmp_path, capsys):
    assert runner.main([str(spec(tmp_path, STEPS[:1])), "-p", "week=3"]) == 2
    assert re.fullmatch(r"[^\n]*parameter week[^\n]*\n", capsys.readouterr().err)


def test_a_parameter_reaches_each_notebook_that_declares_it(tmp_path):
    steps = runner.apply_parameters(runner.read_spec(spec(tmp_path, STEPS[:2])), {"rows": "5", "label": "5"})
    assert [dict(step.parameters) for step in steps] == [{"rows": 5, "label": "5"}, {}]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameters": {"week": 3}}, "Unknown parameter week"),
        ({"needs": ["none"]}, "step fine needs the unknown step none"),
        ({"needs": ["fine"]}, "wait for each other"),
        ({"notebook": "99_none.ipynb"}, "does not exist: .*99_none.ipynb"),
        ({"retries": 3}, "is not a list of steps"),
    ],
)
def test_a_spec_that_does_not_hold_together_is_refused(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        runner.apply_parameters(runner.read_spec(spec(tmp_path, [STEPS[0] | change])), {})


def test_a_history_under_its_former_name_is_kept(tmp_path):
    history.append_event(tmp_path / "ledger.jsonl", event="started", run_id="first", sandbox=True)
    file = history.find_history(tmp_path)
    assert [run["run_id"] for run in history.read_runs(file)] == ["first"]
    assert history.find_history(tmp_path) == file


def test_a_secret_is_no_parameter(tmp_path):
    notebook = json.loads((NOTEBOOKS / "01_ok.ipynb").read_text())
    (cell,) = (cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    cell["source"] = 'app_key: str = ""'
    (tmp_path / "01_key.ipynb").write_text(json.dumps(notebook))
    path = tmp_path / "spec.yml"
    path.write_text("steps: [{name: key, notebook: 01_key.ipynb}]")
    with pytest.raises(UserError, match="app_key looks like a secret"):
        runner.apply_parameters(runner.read_spec(path), {"app_key": "abc"})


def test_the_nightly_spec_and_its_notebooks_hold_together():
    root = Path(__file__).parents[1]
    steps = {step.name: step for step in runner.read_spec(root / "notebooks" / "nightly.yml")}
    chain = ("ingest", "invoice_repair", "kpi_build", "validate")
    assert [list(steps[name].needs) for name in chain] == [[], ["ingest"], ["invoice_repair"], ["kpi_build"]]
    assert list(runner.read_parameter_types(steps["ingest"].notebook)) == [
        "entities",
        "mode",
        "window_start",
        "window_end",
    ]
    assert runner.read_parameter_types(steps["kpi_build"].notebook) == {"weeks": "int", "as_of": "str", "full": "bool"}
