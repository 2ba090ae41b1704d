"""What is around the product misbehaves: servers that hang, disks that are full, terminals, files, names.

A test is named by the number of its fault (`test_100_…`).
"""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import bigquery_proxy
import pandas as pd
import pytest
import requests
import tenacity
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sandbox import server
from sandbox.store import Store
from stkpi import settings
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import run as ingest
from stkpi.reporting import charts, tables
from stkpi.runs import history, runner
from stkpi.servicetitan import client
from stkpi.spreadsheets import format_csv, protect_cell, restore_cell
from stkpi.warehouse.bigquery import BigQueryWarehouse, RetryLimits

NOTEBOOKS = Path(__file__).parent / "notebooks"
HOSTILE = (
    'O\'Neil "Bob" -- /* x */ ; DROP TABLE st_raw_v2.raw_jobs',
    "{{ 7 * 7 }} {% raw %}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    '=HYPERLINK("http://evil.example","x")',
    "+1+1",
    "@SUM(A1)",
    "-2+3",
    "\t=1+1",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eright to left",
    "../../etc/passwd",
    "$99 #1 $49",
    "[click](javascript:alert(1)) **bold** `code` ![](x)",
    "x" * 10_000,
)


@pytest.fixture
def api(serve: Callable[..., server.Sandbox], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> server.Sandbox:
    """Three job types over HTTP, a warehouse that is still empty, and a client that waits milliseconds, not seconds."""
    store = Store()
    dates = {"createdOn": "2025-01-01T00:00:00Z", "modifiedOn": "2025-01-01T00:00:00Z"}
    for number in (1, 2, 3):
        store.add("job_types", {"id": number, "name": f"type {number}", "active": True, **dates})
    running = serve(store, calls_per_second=1_000_000)
    for name, value in (running.environment | {"WAREHOUSE": str(tmp_path / "warehouse.duckdb")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "BACKOFF", 0.001)
    return running


@pytest.fixture
def order(api: server.Sandbox) -> Callable[..., None]:
    """`order(fault, path, **arguments)` orders a fault of the server."""

    def send(fault: str, path: str, **arguments: Any) -> None:
        reply = requests.post(f"{api.url}/sandbox/faults", json={"fault": fault, "path": path, **arguments}, timeout=10)
        reply.raise_for_status()

    return send


def read_types() -> tuple[str, int, str | None]:
    """Ingest the job types; return the status, the rows and the error."""
    (result,) = ingest.run_ingest("job_types").entities
    return result.status, result.fetched, result.error


# --- servers --------------------------------------------------------------------------------------------------------


class Mute:
    """A server that accepts and never answers."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(30)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_100_a_bigquery_that_accepts_and_never_answers_is_left():
    began = time.monotonic()
    with Mute() as url, pytest.raises(UserError, match="Cannot reach"):
        BigQueryWarehouse("mute", emulator=url, retry_limits=RetryLimits(network=0.5, answer=0.3))
    assert time.monotonic() - began < 10


def test_100_a_bigquery_that_falls_silent_is_left(proxy):
    def hold(_: bigquery_proxy.Request, __: bigquery_proxy.Proceed) -> bigquery_proxy.Reply:
        time.sleep(12)
        return bigquery_proxy.Reply(200, b"{}")

    limits, project = RetryLimits(network=1, answer=4), f"mute-{uuid.uuid4().hex[:12]}"
    BigQueryWarehouse(project, emulator=proxy.url, read_only=True).close()  # the emulator's first answer takes long
    with BigQueryWarehouse(project, emulator=proxy.url, retry_limits=limits, read_only=True) as target:
        proxy.faults = [bigquery_proxy.Fault(lambda request: request.submits, hold)]
        with pytest.raises(WarehouseError, match="BigQuery did not answer: run again"):
            target.query("SELECT 1 AS x")


def test_100_a_job_that_never_ends_is_canceled_and_named(proxy):
    def stay_running(_: bigquery_proxy.Request, proceed: bigquery_proxy.Proceed) -> bigquery_proxy.Reply:
        reply = proceed()
        job = json.loads(reply.body)
        return bigquery_proxy.Reply(200, json.dumps(job | {"status": {"state": "RUNNING"}}).encode())

    limits, project = RetryLimits(job=0.2), f"stuck-{uuid.uuid4().hex[:12]}"
    with BigQueryWarehouse(project, emulator=proxy.url, retry_limits=limits, read_only=True) as target:
        proxy.faults = [
            bigquery_proxy.unfinished(),
            bigquery_proxy.Fault(bigquery_proxy.polls, stay_running),
        ]
        with pytest.raises(WarehouseError, match=r"did not finish a job within .* \(stkpi-.*run again"):
            target.query("SELECT 1 AS x")
    assert any(request.path.endswith("/cancel") for request in proxy.requests)


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting costs no time: each wait of the client moves its clock, and is noted."""
    waits: list[float] = []
    now = time.monotonic

    class Clock:
        monotonic = staticmethod(lambda: now() + sum(waits))
        perf_counter = staticmethod(time.perf_counter)

    monkeypatch.setattr(client, "time", Clock)
    monkeypatch.setattr(tenacity, "sleep_using_event", lambda _: waits.append)
    return waits


@pytest.mark.parametrize("status", [503, 429])
def test_101_an_api_that_is_away_for_ten_minutes_is_waited_for_and_the_terminal_says_so(
    status, order, api, fast_clock, monkeypatch, capsys
):
    monkeypatch.setattr(client, "BACKOFF", 0.5)
    monkeypatch.setattr(api, "refuses", lambda: sum(fast_clock) < 600, raising=False)
    effect = api.effects["status"]
    api.effects["status"] = lambda args, request, proceed: (
        effect(args, request, proceed) if api.refuses() else proceed(request)
    )
    order("status", "/job-types$", status=status)
    assert read_types() == ("ok", 3, None)
    assert 600 < sum(fast_clock) < 700
    told = capsys.readouterr().out
    assert re.search(rf"Waiting for ServiceTitan, for up to 15 minutes: ServiceTitan answers {status}", told)
    assert 8 <= told.count("Waiting for ServiceTitan") <= 12  # once a minute
    assert "ServiceTitan answers again." in told


def test_101_a_wait_of_ten_minutes_that_the_server_asks_for_is_granted_and_one_of_an_hour_is_not(order, fast_clock):
    order("status", "/job-types$", status=429, headers={"Retry-After": "600"}, times=1)
    assert read_types() == ("ok", 3, None)
    assert 600 <= sum(fast_clock) < 610
    order("status", "/job-types$", status=429, headers={"Retry-After": "3600"}, times=1)
    status, _, error = read_types()
    assert status == "failed"
    assert "answers 429" in error


def test_101_an_api_that_stays_away_is_waited_for_once_and_not_by_each_entity(order, fast_clock):
    order("status", "/(job-types|tag-types|campaigns)$", status=503)
    results = ingest.run_ingest("job_types,tag_types,campaigns").entities
    assert [result.status for result in results] == ["failed"] * 3
    assert sum(fast_clock) < 3 * 1.1 * client.PATIENCE  # three threads at once, each of which notes its own waits


def test_102_an_answer_that_comes_byte_by_byte_has_a_deadline(order, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    order("drip", "/job-types$", seconds=0.05, times=1)
    began = time.monotonic()
    assert read_types() == ("ok", 3, None)
    assert time.monotonic() - began < 5  # the whole answer would take 20 seconds


def test_121_a_redirect_gets_neither_the_app_key_nor_the_secret(order, api, monkeypatch):
    received: list[str] = []

    class Thief(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            received.append(f"{self.headers}{body}")
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Thief) as thief:
        threading.Thread(target=thief.serve_forever, args=(0.05,), daemon=True).start()
        elsewhere = {"Location": f"http://localhost:{thief.server_port}/"}
        for path, setting in (("/job-types$", "ST_API_URL"), ("connect/token", "ST_AUTH_URL")):
            order("status", path, status=307, headers=elsewhere, times=1)
            if setting == "ST_AUTH_URL":
                with pytest.raises(UserError, match=f"sends us on to localhost.*{setting}"):
                    read_types()
            else:
                status, _, error = read_types()
                assert (status, setting in error) == ("failed", True)
        thief.shutdown()
    assert received == []


# --- disks and files ------------------------------------------------------------------------------------------------


def write_spec(folder: Path, *steps: dict[str, Any]) -> Path:
    """Write a spec over the fixture notebooks; return its path."""
    path = folder / "spec.yml"
    listed = [step | {"notebook": str(NOTEBOOKS / step["notebook"])} for step in steps]
    path.write_text(yaml.safe_dump({"steps": listed}))
    return path


@pytest.fixture
def own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """With credentials no sandbox is started; the fixture notebooks talk to nobody."""
    for name in settings.CREDENTIALS:
        monkeypatch.setenv(name.upper(), "a-company")


RUN = """
import pathlib, sys
from stkpi import terminal
from stkpi.runs import runner
spec, runs = map(pathlib.Path, sys.argv[1:])
terminal.run_command(lambda: runner.run_spec(spec, {}, runs))
"""


@pytest.mark.usefixtures("own_credentials")
def test_115_a_page_that_cannot_be_written_fails_its_step_and_the_night_goes_on_to_its_end(tmp_path, capsys):
    runs = tmp_path / "runs"
    full = {"name": "full", "notebook": "07_full_disk.ipynb", "parameters": {"runs": str(runs)}}
    spec = write_spec(tmp_path, full, {"name": "fine", "notebook": "01_ok.ipynb", "needs": []})
    assert runner.run_spec(spec, runs=runs) == 1
    (run,) = history.read_runs(runs / "history.jsonl")
    assert (run["status"], [(step["name"], step["status"]) for step in run["steps"]]) == (
        "failed",
        [("full", "failed"), ("fine", "ok")],
    )
    assert "The disk is full: free some space" in run["steps"][0]["error"]
    assert "The disk is full" in (runs / "index.html").read_text()
    assert json.loads((runs / run["run_id"] / "summary.json").read_text())["status"] == "failed"
    assert not (runs / ".reserve").exists()


def can_mount() -> bool:
    """Whether this user may mount a file system of its own."""
    command = ["unshare", "-rm", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_mounted(folder: Path, mount: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command with a file system of its own, which the shell line `mount` makes."""
    script = f'{mount} && shift 1 && exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", folder, *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not can_mount(), reason="a user who may not mount a small disk")
@pytest.mark.usefixtures("own_credentials")
@pytest.mark.parametrize("size", ["200k", pytest.param("5m", marks=pytest.mark.soak)])
def test_104_a_small_disk_ends_the_night_in_a_sentence(tmp_path, size):
    runs = tmp_path / "runs"
    runs.mkdir()
    spec = write_spec(tmp_path, {"name": "fill", "notebook": "08_fill_disk.ipynb", "parameters": {"runs": str(runs)}})
    mount = f'mount -t tmpfs -o size={size} none "$1"'
    keep = f'{sys.executable} -c "$RUN" {spec} {runs}; code=$?; cat {runs}/history.jsonl; exit $code'
    done = run_mounted(runs, f"export RUN='{RUN}'; {mount}", "sh", "-c", keep)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "The disk is full: free some space and run again" in done.stderr + done.stdout
    if size == "5m":  # there was room to begin
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert [event["event"] for event in events] == ["started", "step", "finished"]


@pytest.mark.skipif(not can_mount(), reason="a user who may not mount a small disk")
@pytest.mark.usefixtures("own_credentials")
def test_104_a_folder_of_runs_that_is_read_only_is_named(tmp_path):
    runs, spec = tmp_path / "runs", write_spec(tmp_path, {"name": "fine", "notebook": "01_ok.ipynb"})
    runs.mkdir()
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    done = run_mounted(runs, mount, sys.executable, "-c", RUN, spec, runs)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(runs) in done.stderr
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("line", [b"5", b'"text"', b"[1]", b"\xff\xfe", b'{"event": "started"}', b"{", b"null"])
def test_115_a_line_of_the_history_that_is_no_event_is_passed_over(tmp_path, line):
    file = tmp_path / "history.jsonl"
    history.append_event(file, event="started", run_id="first", sandbox=True)
    with file.open("ab") as torn:
        torn.write(b"\n" + line)
    history.append_event(file, event="finished", run_id="first", status="ok")
    (run,) = history.read_runs(file)
    assert (run["run_id"], run["status"]) == ("first", "ok")


# --- the terminal ---------------------------------------------------------------------------------------------------


def run_script(script: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | changes
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.soak
@pytest.mark.usefixtures("own_credentials")
def test_106_a_night_goes_on_when_its_reader_has_left(tmp_path):
    runs, spec = (
        tmp_path / "runs",
        write_spec(
            tmp_path, {"name": "a", "notebook": "01_ok.ipynb"}, {"name": "b", "notebook": "01_ok.ipynb", "needs": ["a"]}
        ),
    )
    done = run_script(f"set -o pipefail; {sys.executable} -c '{RUN}' {spec} {runs} 2>&1 | true")
    assert done.returncode == 0
    assert done.stderr == ""
    (run,) = history.read_runs(runs / "history.jsonl")
    assert (run["status"], len(run["steps"])) == ("ok", 2)


def test_106_a_terminal_that_takes_ascii_only_gets_every_line():
    script = f"{sys.executable} -m stkpi sql --kpi Leads --definition 'status=Überall → ja'"
    done = run_script(script, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.isascii()


def test_106_a_name_cannot_command_the_terminal():
    show = "import sys; from stkpi import terminal; terminal.prepare_output(); print(*sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", show, *HOSTILE], capture_output=True, check=True)
    assert b"red" in done.stdout
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", done.stdout.decode())


# --- names ----------------------------------------------------------------------------------------------------------

FORMULA = re.compile(r"\s*[=+\-@\t\r]")


@pytest.mark.parametrize("name", HOSTILE)
def test_110_a_csv_is_safe_to_open_in_a_spreadsheet_and_can_be_read_back(name):
    frame = pd.DataFrame({"name": [name, None], "amount": [-12.5, 3.0], name: ["-$1,234.50", "x"]})
    text = format_csv(frame)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    for cell in (cell for row in rows for cell in row if cell not in ("-12.5", "-$1,234.50")):
        assert not FORMULA.match(cell)
    assert [restore_cell(cell) for cell in rows[0]] == ["name", "amount", name]
    assert [restore_cell(cell) for cell in rows[1]] == [name, "-12.5", "-$1,234.50"]


@given(text=st.text())
def test_110_every_text_comes_back(text):
    assert restore_cell(protect_cell(text)) == text


def test_117_a_name_is_text_on_a_page():
    shown = [
        charts.render_bars(pd.Series(range(len(HOSTILE)), index=HOSTILE, dtype=float), HOSTILE[2]),
        charts.render_waterfall([(name, 1.0, name[:20]) for name in HOSTILE], HOSTILE[2]),
    ]
    for name in HOSTILE:
        shown += [tables.render_table(pd.DataFrame({name: [name], "n": [1]})), tables.render_text(name, [name])]
    for fragment in shown:
        assert find_danger(fragment.data) == []
    assert find_danger("<b onclick=x><script>") == ["b onclick=x", "script"]


def test_122_dollar_signs_in_a_units_name_are_no_formula():
    for name in ("$99 #1 $49", "$x^2$", r"\frac{", "a_b $ c"):
        fragment = charts.render_bars(pd.Series([1.0], index=[name]), name)
        (image,) = re.findall(r"base64,([\w+/=]+)", fragment.data)
        assert name in "".join(ElementTree.fromstring(base64.b64decode(image)).itertext())


class Finder(HTMLParser):
    """Finds what a browser would run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or (value or "").strip().lower().startswith("javascript:"):
                self.found.append(f"{tag} {name}={value}")
            if tag == "img" and name == "src" and not (value or "").startswith("data:image/svg+xml;base64,"):
                self.found.append(f"{tag} {name}={value}")
        if tag in ("script", "iframe", "object", "embed", "base", "form"):
            self.found.append(tag)


def find_danger(page: str) -> list[str]:
    """Return the elements and attributes of a page that could run something; and images that are no XML."""
    finder = Finder()
    finder.feed(page)
    for image in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page):
        tree = ElementTree.fromstring(base64.b64decode(image))
        finder.found += [each.tag for each in tree.iter() if each.tag.endswith(("script", "foreignObject"))]
    return finder.found
