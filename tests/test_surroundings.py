"""What is around the product misbehaves: servers that hang, disks that are full, terminals, files, names.

A test is named by the number of its fault (`test_100_…`).
"""

import base64
import csv
import io
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import bigquery_proxy
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
import tenacity
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sandbox import __main__ as command
from sandbox import server
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import settings, warehouse
from stkpi.__main__ import main
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import read, state
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.reporting import charts, tables
from stkpi.runs import alerts, history, runner
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES
from stkpi.spreadsheets import format_csv, protect_cell, restore_cell
from stkpi.validation import run as validation
from stkpi.validation.checks import Check
from stkpi.warehouse import Warehouse, lease
from stkpi.warehouse.bigquery import BigQueryWarehouse, RetryLimits
from stkpi.warehouse.duckdb import DuckDBWarehouse, verify_file

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


def test_103_a_feed_is_read_a_page_at_a_time_and_not_as_a_whole(serve, monkeypatch, tmp_path):
    store, large = Store(), "x" * 200_000
    for number in range(60):
        dates = {"createdOn": "2025-01-01T00:00:00Z", "modifiedOn": "2025-01-01T00:00:00Z"}
        store.add("returns", {"id": number + 1, "active": True, "memo": f"{number}{large}", **dates})
    running = serve(store, calls_per_second=1_000_000, export_page_size=5)  # a page is a megabyte, the feed twelve
    for name, value in (running.environment | {"WAREHOUSE": str(tmp_path / "warehouse.duckdb")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("stkpi.ingest.read.PAGE_SIZE", 5)
    alive = weakref.WeakSet()
    most = [0]
    parse = client.parse_page

    class Watched(client.Page):
        __hash__ = object.__hash__

    def watch(body: Any) -> client.Page:
        page = Watched(**vars(parse(body)))
        alive.add(page)
        most[0] = max(most[0], len(alive))
        return page

    monkeypatch.setattr(client, "parse_page", watch)
    assert [result.status for result in ingest.run_ingest("returns").entities] == ["ok"]
    with warehouse.connect() as target:
        state.write_state(target, ENTITIES["returns"], "test", state.State(datetime(2025, 1, 1, tzinfo=UTC)))
    most[0] = 0
    (result,) = ingest.run_ingest("returns").entities
    assert (result.status, result.fetched) == ("ok", 60)
    assert most[0] <= 3


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
        if tag in ("script", "iframe", "object", "embed", "base"):
            self.found.append(tag)


def find_danger(page: str) -> list[str]:
    """Return the elements and attributes of a page that could run something; and images that are no XML."""
    finder = Finder()
    finder.feed(page)
    for image in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page):
        tree = ElementTree.fromstring(base64.b64decode(image))
        finder.found += [each.tag for each in tree.iter() if each.tag.endswith(("script", "foreignObject"))]
    return finder.found


# --- the warehouse --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warehouse_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse file with one table of ours."""
    path = tmp_path_factory.mktemp("whole") / "warehouse.duckdb"
    numbers = (
        "SELECT x AS id, CONCAT('name ', CAST(x * 7919 AS STRING)) AS name FROM UNNEST(GENERATE_ARRAY(1, 100000)) AS x"
    )
    with DuckDBWarehouse(path, 1) as target:
        target.execute(f"CREATE OR REPLACE TABLE st_raw_v2.t AS {numbers}")
    return path


def flip_bits(data: bytes, seed: int) -> bytes:
    """Return the data with ten bits turned, at random."""
    changed, rng = bytearray(data), Random(seed)
    for _ in range(10):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


DAMAGES = {
    "half of it": lambda data: data[: len(data) // 2],
    "its first page": lambda data: data[:4096],
    **{f"flipped bits {seed}": lambda data, seed=seed: flip_bits(data, seed) for seed in range(5)},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_116_a_damaged_warehouse_is_named_with_its_cure(warehouse_file, tmp_path, name):
    path = tmp_path / "warehouse.duckdb"
    path.write_bytes(DAMAGES[name](warehouse_file.read_bytes()))
    with pytest.raises((UserError, WarehouseError), match=rf"damaged: set {path} aside.*reads everything"):
        verify_file(path, 1)


def test_105_a_damaged_warehouse_is_set_aside_and_a_whole_one_is_not(warehouse_file, tmp_path, monkeypatch, capsys):
    path = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("WAREHOUSE", str(path))
    monkeypatch.setattr(sys, "argv", ["stkpi", "verify", "--set-aside"])
    path.write_bytes(warehouse_file.read_bytes())
    assert main() == 0
    assert "is whole: 100,000 rows" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:500_000])
    assert main() == 0
    assert [each.name.split("-")[0] for each in tmp_path.iterdir()] == ["damaged"]
    assert "It was set aside." in capsys.readouterr().out


def test_105_the_nightly_workflow_neither_uses_nor_keeps_a_damaged_warehouse():
    workflow = yaml.safe_load((settings.ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    steps = workflow["jobs"]["nightly"]["steps"]
    names = [step.get("name") for step in steps]
    restored, before, night, after, saved = (
        names.index(name)
        for name in (
            "The warehouse of the last night",
            "A warehouse that is damaged is set aside",
            "The night",
            "A warehouse that is damaged is not kept",
            "The warehouse for the next night",
        )
    )
    assert restored < before < night < after < saved
    assert (steps[before]["run"], steps[after]["run"]) == ("make verify SET_ASIDE=1", "make verify")
    assert f"steps.{steps[after]['id']}.outcome == 'success'" in steps[saved]["if"]


OPEN = """
import sys, time
from stkpi.errors import UserError
from stkpi.warehouse.bigquery import BigQueryWarehouse
try:
    with BigQueryWarehouse(sys.argv[1], emulator=sys.argv[2], wait=float(sys.argv[3])):
        print("open", flush=True)
        time.sleep(float(sys.argv[4]))
except UserError as error:
    print(error)
"""


def open_elsewhere(project: str, url: str, wait: float, seconds: float = 0) -> subprocess.Popen[str]:
    """Open the warehouse for writing in another process, for some seconds."""
    words = [sys.executable, "-c", OPEN, project, url, str(wait), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_114_of_two_programs_that_write_to_one_bigquery_the_second_says_who_is_first_or_waits(emulator):
    project = f"two-{uuid.uuid4().hex[:12]}"
    with BigQueryWarehouse(project, emulator=emulator):
        said, _ = open_elsewhere(project, emulator, 0).communicate(timeout=120)
        assert f"process {os.getpid()}): end that, or wait for it" in said
        BigQueryWarehouse(project, emulator=emulator, read_only=True).close()  # who only reads need not wait
        second = open_elsewhere(project, emulator, 60)
        assert second.stderr.readline().startswith("Waiting: another program writes to these datasets")
    assert second.communicate(timeout=120)[0] == "open\n"


def test_108_a_program_that_was_killed_keeps_nobody_out(emulator):
    project = f"dead-{uuid.uuid4().hex[:12]}"
    first = open_elsewhere(project, emulator, 0, 600)
    assert first.stdout.readline() == "open\n"
    first.kill()
    first.communicate(timeout=60)
    with BigQueryWarehouse(project, emulator=emulator, wait=0) as target:
        assert target.query("SELECT 1 AS x")["x"].tolist() == [1]


def test_108_a_program_that_stood_still_for_too_long_writes_no_more(emulator, monkeypatch):
    project = f"still-{uuid.uuid4().hex[:12]}"
    with BigQueryWarehouse(project, emulator=emulator) as target:
        target.execute("CREATE OR REPLACE TABLE st_raw_v2.t AS SELECT 1 AS x")
        monkeypatch.setattr(lease, "SECONDS", -1.0)
        with pytest.raises(WarehouseError, match=r"lost its place in BigQuery.*run again"):
            target.execute("CREATE OR REPLACE TABLE st_raw_v2.t AS SELECT 2 AS x")
        monkeypatch.undo()
        assert target.query("SELECT x FROM st_raw_v2.t")["x"].tolist() == [1]


# --- nights that do not begin ---------------------------------------------------------------------------------------


def run_heartbeat(monkeypatch: pytest.MonkeyPatch, runs: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["stkpi", "heartbeat", "--runs", str(runs)])
    return main()


def test_107_a_night_that_did_not_begin_is_told_from_outside(tmp_path, monkeypatch, capsys):
    assert run_heartbeat(monkeypatch, tmp_path) == 1
    assert "No nightly run has begun yet" in capsys.readouterr().err
    begun = datetime.now(UTC) - timedelta(hours=27)
    line = {"at": begun.isoformat(), "event": "started", "run_id": "first", "sandbox": False}
    (tmp_path / "history.jsonl").write_text(json.dumps(line))
    assert run_heartbeat(monkeypatch, tmp_path) == 1
    assert f"No nightly run has begun since {begun:%Y-%m-%d %H:%M} UTC" in capsys.readouterr().err
    history.append_event(tmp_path / "history.jsonl", event="started", run_id="second", sandbox=False)
    assert run_heartbeat(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out == "The last nightly run began just now.\n"


@pytest.mark.parametrize(("hours", "is_told"), [(None, True), (27, True), (25, False)])
def test_107_github_is_asked_when_the_last_night_began(hours, is_told):
    now = datetime(2025, 9, 15, 15, 43, tzinfo=UTC)
    last = now - timedelta(hours=hours) if hours else None
    assert bool(alerts.check_heartbeat(last, now).problems) is is_told


# --- clocks ---------------------------------------------------------------------------------------------------------

ZONES = ("America/New_York", "Europe/Berlin", "America/Phoenix", "Australia/Lord_Howe")


@pytest.mark.parametrize("zone", ZONES)
def test_109_every_half_hour_of_two_years_is_on_its_day_and_in_its_week(zone, tmp_path):
    start, halves = datetime(2024, 1, 1, tzinfo=UTC), 2 * 24 * 731
    sql = f"""SELECT x, DATE(moment, @time_zone) AS day,
  CAST(DATE_TRUNC(DATE(moment, @time_zone), WEEK(MONDAY)) AS DATE) AS week
FROM (
  SELECT x, TIMESTAMP_ADD(@window_start, INTERVAL x * 30 MINUTE) AS moment FROM UNNEST(GENERATE_ARRAY(0, {halves})) AS x
)
ORDER BY x"""
    with DuckDBWarehouse(tmp_path / "clock.duckdb", 1) as target:
        found = target.query(sql, window_start=start, time_zone=zone)
    days = [(start + timedelta(minutes=30 * x)).astimezone(ZoneInfo(zone)).date() for x in range(halves + 1)]
    assert found["day"].tolist() == days
    assert found["week"].tolist() == [day - timedelta(days=day.weekday()) for day in days]


@given(zone=st.sampled_from(ZONES), first=st.dates(date(2020, 1, 1), date(2030, 12, 31)), days=st.integers(0, 60))
def test_109_days_tile_the_time_in_weeks_in_which_the_clock_changes(zone, first, days):
    reader = SimpleNamespace(slices=False, zone=ZoneInfo(zone))
    last = first + timedelta(days=days)
    start, end = read._to_instants(reader, first, last)
    assert (start.astimezone(reader.zone).date(), start.astimezone(reader.zone).hour) == (first, 0)
    assert (end - timedelta(microseconds=1)).astimezone(reader.zone).date() == last
    assert read._to_instants(reader, last + timedelta(days=1), last + timedelta(days=1))[0] == end
    assert abs((end - start) - timedelta(days=days + 1)) <= timedelta(hours=1)


# --- secrets --------------------------------------------------------------------------------------------------------


def spell(secret: str) -> set[bytes]:
    """Return the ways in which a secret could be written down."""
    plain = secret.encode()
    return {plain, base64.b64encode(plain).rstrip(b"="), quote(secret, safe="").encode()}


def test_014_no_secret_is_in_any_file_of_a_run_its_output_or_the_list_of_processes(api, order, tmp_path, monkeypatch):
    others = {"SLACK_WEBHOOK": "https://127.0.0.1:9/services/not-a-real-one", "GITHUB_TOKEN": "ghp_not-a-real-one"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    order("status", "/tag-types$", status=404, title=f"{server.CLIENT_SECRET} {server.APP_KEY}")
    spec = tmp_path / "spec.yml"
    notebook = settings.ROOT / "notebooks" / "01_ingest.ipynb"
    parameters = {"entities": "job_types,tag_types"}
    steps = [
        {"name": "ingest", "notebook": str(notebook), "parameters": parameters},
        {"name": "crash", "notebook": str(NOTEBOOKS / "09_crash.ipynb")},
    ]
    spec.write_text(yaml.safe_dump({"steps": steps}))
    command = [sys.executable, "-c", RUN, spec, tmp_path / "runs"]
    seen: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            with suppress(psutil.Error):
                for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                    seen += each.cmdline()
            time.sleep(0.2)
        seen.append(process.stdout.read().decode())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"log.jsonl", "history.jsonl", "summary.json", "01_ingest.html", "09_crash.ipynb"} <= {f.name for f in files}
    texts = [path.read_bytes() for path in files] + ["\n".join(seen).encode()]
    for secret in (server.CLIENT_SECRET, server.APP_KEY, *api.tokens, *others.values()):
        for spelled in spell(secret):
            assert not any(spelled in text for text in texts), secret


def test_014_the_cache_of_the_made_up_company_is_read_only_where_this_user_wrote_it(tmp_path, monkeypatch):
    cache = tmp_path / "records.pickle"
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, (f"touch {ran}",)

    cache.write_bytes(pickle.dumps(Trap()))
    cache.chmod(0o666)
    monkeypatch.setattr(command, "_generate_tenant", lambda *_: Store())
    command.load_tenant("painting", 1, 0.01, cache)
    assert not ran.exists()
    cache.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)  # another user's file
    command.load_tenant("painting", 1, 0.01, cache)
    assert not ran.exists()


# --- names that change ----------------------------------------------------------------------------------------------


def measure_week(target: Warehouse) -> pd.DataFrame:
    return target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")


def find_check(name: str) -> Check:
    (found,) = (check for check in validation.run().checks if check.name == name)
    return found


@pytest.mark.soak
def test_090_a_type_that_is_renamed_and_counts_no_longer_is_a_critical_red_that_names_it(healthy):
    marts.build_marts()
    with warehouse.connect() as target:
        types = target.query(
            "SELECT job_type_id AS id, ANY_VALUE(job_type_name) AS name, COUNT(*) AS jobs FROM st_ref_v2.dim_jobs"
            " WHERE LOWER(job_type_name) LIKE '%estimate%' GROUP BY job_type_id ORDER BY jobs DESC LIMIT 1"
        ).iloc[0]
        target.execute(f"UPDATE st_raw_v2.raw_job_types SET name = 'Interior Consult' WHERE id = {types['id']}")
    assert find_check("renamed").color == "green"
    for _ in range(2):  # it stays red, night after night
        marts.build_marts()
        check = find_check("renamed")
        assert (check.color, check.severity) == ("red", "critical")
        assert f"Interior Consult: was called {types['name']} when its {types['jobs']} jobs" in check.found
    marts.build_marts(full=True)  # a person accepts it
    assert find_check("renamed").color == "green"


@pytest.mark.soak
def test_093_two_units_of_one_name_count_once_each(healthy):
    with warehouse.connect() as target:
        before = measure_week(target)
        first, second = target.query(
            "SELECT business_unit_id AS id FROM st_ref_v2.dim_business_units"
            " WHERE division = 'Sales' AND is_mapped ORDER BY id LIMIT 2"
        )["id"]
        target.execute(
            f"UPDATE st_raw_v2.raw_business_units SET name = (SELECT name FROM st_raw_v2.raw_business_units"
            f" WHERE id = {first}) WHERE id = {second}"
        )
    marts.build_marts()
    with warehouse.connect() as target:
        after = measure_week(target)
        units = target.query(
            "SELECT DISTINCT business_unit FROM st_ref_v2.dim_business_units"
            f" WHERE business_unit_id IN ({first}, {second})"
        )
    assert len(units) == 1
    money = ["total_booked", "dollars_produced", "dollars_collected"]
    assert after[money].sum().tolist() == before[money].sum().tolist()


def test_ids_above_2_to_the_53rd_are_exact(api):
    store, dates = api.store, {"createdOn": "2025-01-01T00:00:00Z", "modifiedOn": "2025-01-01T00:00:00Z"}
    ids = [2**53 + 1, 2**53 + 3, 2**63 - 1]
    for number in ids:
        store.add("job_types", {"id": number, "name": f"type {number}", "active": True, **dates})
    store.settle()
    assert read_types() == ("ok", 6, None)
    with warehouse.connect() as target:
        found = target.query("SELECT id FROM st_raw_v2.raw_job_types WHERE id > 3 ORDER BY id")
    assert found["id"].tolist() == ids
    assert f"{2**63 - 1:,}" in tables.render_table(found).data


# --- a hostile tenant -----------------------------------------------------------------------------------------------


def rename_everything(store: Store) -> None:
    """Put a hostile text before every name of the tenant: what a name means (an estimate, a test) stays in it."""
    texts = itertools.cycle(HOSTILE)
    now = datetime(2025, 9, 14, 12, tzinfo=UTC)

    def rename(record: Any) -> None:
        for key, value in list(record.items()) if isinstance(record, dict) else ():
            if key in ("name", "summary", "memo", "street") and isinstance(value, str) and "value" not in record:
                record[key] = f"{names.setdefault(value, next(texts))} {value}"
            elif isinstance(value, dict):
                rename(value)
            elif isinstance(value, list):
                for each in value:
                    rename(each)

    names: dict[str, str] = {}  # one new name for each old one, wherever it stands
    for resource in RESOURCES:
        for row in np.flatnonzero(store.present(resource)).tolist():
            record = store.get(resource, row)
            rename(record)
            if resource == "customers":
                record["name"] += " Zebulon-Quisenberry"
            store.replace(resource, row, record, now)
    store.settle()


@pytest.mark.soak
def test_117_a_whole_night_of_a_hostile_tenant_runs_nothing_and_tells_no_customer(serve, tmp_path):
    store = Store()
    populate(store, seed=1, scale=0.02)
    rename_everything(store)
    running = serve(store, calls_per_second=1_000_000, report_seconds=0)
    (tmp_path / "company").mkdir()
    paths = {"WAREHOUSE": str(tmp_path / "warehouse.duckdb"), "COMPANY": str(tmp_path / "company")}
    environment = os.environ | running.environment | paths | {"AS_OF": LAST_DAY.isoformat()}
    command = [sys.executable, "-c", RUN, settings.ROOT / "notebooks" / "nightly.yml", tmp_path / "runs"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert "Traceback" not in done.stderr
    (run,) = history.read_runs(tmp_path / "runs" / "history.jsonl")
    failed = {step["name"]: step["error"] for step in run["steps"] if step["status"] in ("failed", "skipped")}
    assert failed.keys() <= {"validate", "definitions"}, failed  # checks that are red are not what is tested here
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", done.stdout)
    pages = list((tmp_path / "runs").rglob("*.html"))
    assert len(pages) > 5
    ours = re.compile(r'<script( src="[\w./-]+\.js")?>(explore\.start\(\);)?</script>')
    for path in pages:
        assert find_danger(ours.sub("", path.read_text())) == [], path
    for path in [*(tmp_path / "runs").rglob("*.csv"), *(tmp_path / "company").rglob("*.csv")]:
        with path.open(newline="") as file:
            formulas = [cell for row in csv.reader(file) for cell in row if FORMULA.match(cell)]
        assert all(re.fullmatch(r"-?\$?[\d,.]+", cell) for cell in formulas), path
    for path in (tmp_path / "runs").rglob("*.json*"):
        assert "Quisenberry" not in path.read_text(), path
    assert "Quisenberry" not in (tmp_path / "log.jsonl").read_text() + done.stdout
