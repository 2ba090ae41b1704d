"""Fixtures that several test files share."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from bigquery_proxy import Proxy
from browser import Watched, describe_missing, start_browser
from emulator import MISSING, find_python, start, told
from filelock import FileLock
from small_company import api, break_  # noqa: F401 - fixtures

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE, populate
from stkpi import company, settings
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.warehouse.duckdb import DuckDBWarehouse

if TYPE_CHECKING:
    from playwright.sync_api import Browser

UNLIMITED = 1_000_000
LONGEST = (
    *("test_definitions_agree", "test_every_option", "test_ingest", "test_notebooks", "test_faults", "test_sql"),
    *("test_adoption",),
)


@pytest.fixture(scope="session")
def tenant() -> Store:
    """A whole generated tenant, the known case included, with one job in fifty. Not to be changed by a test."""
    store = Store()
    populate(store, seed=1, scale=0.02)
    return store


@pytest.fixture(scope="session")
def hvac_tenant() -> Store:
    """The second company, with one job in fifty. Not to be changed by a test."""
    store = Store("hvac")
    populate(store, seed=1, scale=0.02)
    return store


@pytest.fixture(scope="session")
def hvac(hvac_tenant: Store) -> Iterator[server.Sandbox]:
    """The second company over HTTP, without rate limits. Not to be changed by a test."""
    running = server.start(hvac_tenant, calls_per_second=UNLIMITED, report_seconds=0, export_page_size=300)
    yield running
    running.close()


@pytest.fixture(scope="session")
def sandbox(tenant: Store) -> Iterator[server.Sandbox]:
    """The generated tenant over HTTP, without rate limits. Not to be changed by a test."""
    running = server.start(tenant, calls_per_second=UNLIMITED, report_seconds=0, export_page_size=300)
    yield running
    running.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of this run of pytest, which all of its workers see."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent  # a worker's folder is inside of the one of its pytest


@pytest.fixture(scope="session")
def built(sandbox: server.Sandbox, shared: Path) -> Path:
    """A warehouse with the generated tenant, ingested over HTTP and built up to LAST_DAY. Use a copy: `healthy`."""
    file, unfinished = shared / "built" / "warehouse.duckdb", shared / "built" / "unfinished.duckdb"
    with FileLock(shared / "built.lock"), pytest.MonkeyPatch.context() as patch:
        if not file.exists():
            for name, value in (sandbox.environment | {"WAREHOUSE": str(unfinished)}).items():
                patch.setenv(name, value)
            assert ingest.run_ingest().status == "ok"
            marts.build_marts(LAST_DAY.isoformat())
            unfinished.rename(file)
    return file


@pytest.fixture
def healthy(built: Path, sandbox: server.Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built warehouse, which the settings point at, as they do at the tenant that it came from."""
    file = Path(shutil.copy(built, tmp_path / "warehouse.duckdb"))
    for name, value in (sandbox.environment | {"WAREHOUSE": str(file), "AS_OF": LAST_DAY.isoformat()}).items():
        monkeypatch.setenv(name, value)
    return file


@pytest.fixture(scope="module")
def target(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBWarehouse]:
    """A copy of the built warehouse, open, for a file of tests: a comparison writes to its stage tables only."""
    file = Path(shutil.copy(built, tmp_path_factory.mktemp("compared") / "warehouse.duckdb"))
    with DuckDBWarehouse(file, 0) as open_:
        yield open_


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """The machine's browser, for the pages of a file of tests."""
    with start_browser() as running:
        yield running


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Watched]:
    """An empty page that has done nothing it should not do, at the end of the test either."""
    watched = Watched(browser)
    yield watched
    watched.context.close()
    assert watched.faults == []


@pytest.fixture(scope="session")
def emulator(shared: Path, worker_id: str) -> str:
    """The URL of a BigQuery emulator, one for all workers. Its projects are apart: a test that writes takes its own."""
    python = find_python()
    if not python:
        pytest.skip(MISSING)
    owner = os.getpid() if worker_id == "master" else os.getppid()
    url = shared / "emulator" / "url"
    with FileLock(shared / "emulator.lock"):
        if not url.exists():
            url.write_text(start(python, url.parent, owner))
    return url.read_text()


@pytest.fixture
def proxy(emulator: str) -> Iterator[Proxy]:
    """A fault proxy before the emulator, for one test: `proxy.url`, `proxy.faults`, `proxy.requests`."""
    with Proxy(emulator) as running:
        yield running


def pytest_configure(config: pytest.Config) -> None:
    """Keep a test and its processes away from any company: .env and the shell are not read, COMPANY is a copy."""
    config.addinivalue_line("markers", "soak: a long proof, which `make soak` runs")
    config.addinivalue_line(
        "markers", "fault(number, …): which faults of tests/test_fault_numbers.py it proves harmless"
    )
    os.environ["ENV_FILE"] = os.devnull
    for name in [name for name in os.environ if name.lower() in settings.Settings.model_fields]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="stkpi-")) / "company"
    shutil.copytree(company.SANDBOX_PRESET, folder)
    config.add_cleanup(lambda: shutil.rmtree(folder.parent))
    os.environ["COMPANY"] = str(folder)
    os.environ["TIME_ZONE"] = TIME_ZONE  # whoever names a company says it
    os.environ["ST_REPORT_MINUTES"] = "0"  # a whole night need not read reports: test_saved_reports does


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes take the longest files first: a file is the work of one, and the last ones should be short."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not run is said at the end, where it is seen; and what a long test has counted."""
    for report in (*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())):
        for line in (value for name, value in report.user_properties if name == "told"):
            terminalreporter.write_line(line)
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())]
    for line in filter(None, (told(reasons), describe_missing(reasons))):
        terminalreporter.write_line(line, red=True, bold=True)


@pytest.fixture
def serve() -> Iterator[Callable[..., server.Sandbox]]:
    """`serve(store, **options of server.start)` runs a sandbox of its own for one test."""
    running = []

    def start(store: Store, **options: float) -> server.Sandbox:
        running.append(server.start(store, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def signed_in(sandbox: server.Sandbox) -> requests.Session:
    """A plain HTTP session with a fresh token, for tests that look at the wire."""
    session = requests.Session()
    environment = sandbox.environment
    form = {"grant_type": "client_credentials", "client_id": environment["ST_CLIENT_ID"]}
    token = session.post(
        environment["ST_AUTH_URL"], data=form | {"client_secret": environment["ST_CLIENT_SECRET"]}, timeout=10
    )
    token.raise_for_status()
    session.headers.update({"Authorization": token.json()["access_token"], "ST-App-Key": environment["ST_APP_KEY"]})
    return session
