"""What `make doctor` says if something is missing: against the sandbox, and against the BigQuery emulator."""

import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bigquery_proxy as faults
import pytest
import requests
from bigquery_proxy import Proxy
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from sandbox import server
from sandbox.store import Store
from stkpi import __main__, company, settings
from stkpi.runs import doctor, sandbox_process
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES

SILENT = "http://127.0.0.1:9"  # the discard port, where nobody listens


@pytest.fixture
def api(serve: Callable[..., server.Sandbox], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> server.Sandbox:
    """A company without a record, and a warehouse that is not there yet."""
    running = serve(Store(), calls_per_second=1_000_000)
    for name, value in (running.environment | {"WAREHOUSE": str(tmp_path / "w.duckdb")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "BACKOFF", 0.001)
    return running


def findings() -> dict[str, tuple[bool, str]]:
    return {found.check: (found.ok, found.text) for found in doctor.examine(settings.load())}


def to_do() -> tuple[str, str]:
    """The one thing that is missing."""
    (missing,) = [(check, text) for check, (ok, text) in findings().items() if not ok]
    return missing


def refuse(api: server.Sandbox, path: str) -> None:
    order = {"path": path, "fault": "status", "status": 403}
    requests.post(f"{api.url}/sandbox/faults", json=order, timeout=10).raise_for_status()


def run(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["stkpi", "doctor"])
    return __main__.main()


# --- ServiceTitan -------------------------------------------------------------------------------------------------


def test_all_checks_pass(api, monkeypatch, capsys) -> None:
    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0].strip() for line in said.splitlines()] == ["ok"] * 11 + [
        "A night can run: `make nightly`."
    ]
    assert f"tenant {api.tenant_id}" in said
    feeds = [entity for entity in ENTITIES.values() if entity.incremental == "feed"]
    assert f"all {len(ENTITIES) + len(feeds)} endpoints can be read" in said
    assert server.CLIENT_SECRET not in said
    assert server.APP_KEY not in said
    assert not settings.load().warehouse.exists()


def test_a_missing_scope_is_named_as_the_developer_portal_names_it(api, monkeypatch, capsys) -> None:
    refuse(api, "/gross-pay-items")
    refuse(api, "/export/invoices")
    refuse(api, "jpm.*/jobs$")
    check, text = to_do()
    assert check == "ServiceTitan scopes"
    named = "Job Planning and Management > Jobs; Payroll > Gross Pay Items; Accounting > Invoices."
    assert text.startswith(f"not permitted (403): {named} At developer.servicetitan.io > My Apps > Edit")
    assert "accept its new version" in text
    assert run(monkeypatch) == 2
    assert capsys.readouterr().out.endswith("1 to do before a night can run.\n")


def test_where_nothing_is_permitted_the_tenant_is_doubted(api, monkeypatch) -> None:
    monkeypatch.setenv("ST_TENANT_ID", "12345")
    check, text = to_do()
    assert check == "ServiceTitan scopes"
    assert "check ST_TENANT_ID in .env" in text


@pytest.mark.parametrize("name", ["ST_CLIENT_SECRET", "ST_APP_KEY"])
def test_a_wrong_secret_is_told_without_showing_it(api, monkeypatch, capsys, name) -> None:
    monkeypatch.setenv(name, "wrong-but-secret")
    assert run(monkeypatch) == 2
    said = capsys.readouterr()
    assert "TO DO  ServiceTitan sign-in" in said.out
    assert name in said.out
    assert "ServiceTitan scopes" not in said.out  # which nobody can know
    assert "wrong-but-secret" not in said.out + said.err


def test_a_credential_that_is_not_set_is_told(api, monkeypatch) -> None:
    monkeypatch.delenv("ST_APP_KEY")
    monkeypatch.setenv("ST_API_URL", SILENT)  # what is missing is said before a server is asked
    assert to_do() == ("Credentials", "ServiceTitan's credentials are not complete: fill in ST_APP_KEY in .env.")


def test_without_any_credential_a_night_can_run_on_the_made_up_company(api, monkeypatch, capsys) -> None:
    for name in (*map(str.upper, settings.CREDENTIALS), "COMPANY", "TIME_ZONE"):
        monkeypatch.delenv(name)
    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert "LOOK   Credentials" in said
    assert "demo: 4 credentials are missing" in said
    assert "ST_CLIENT_ID, ST_CLIENT_SECRET, ST_APP_KEY, ST_TENANT_ID" in said
    assert "ServiceTitan sign-in" not in said
    assert said.endswith("A night can run, on the made-up company: `make nightly`.\n")


def test_tables_of_another_tenant_are_told(healthy, sandbox, monkeypatch) -> None:
    assert findings()["Tenant of the tables"] == (True, f"tenant {sandbox.tenant_id}")
    monkeypatch.setenv("ST_TENANT_ID", "4711")
    ok, text = findings()["Tenant of the tables"]
    assert not ok
    assert text.startswith(f"This warehouse holds the data of tenant {sandbox.tenant_id}, not of 4711: correct ST_TEN")


# --- the company ----------------------------------------------------------------------------------------------------


def test_what_a_person_should_look_at_stops_no_night(healthy, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "company"
    monkeypatch.setenv("COMPANY", str(folder))
    assert findings()["Company folder"] == (
        True,
        f"{folder} has no business_units.csv yet: the next night proposes it, or `make setup` now.",
    )
    folder.mkdir()
    preset = (company.SANDBOX_PRESET / company.UNITS).read_text()
    lines = [line for line in preset.splitlines() if not line.startswith(("Yuma-Sales,", "Mesa-Sales,"))]
    lines[0] += ",guess"
    lines[1] += ",division by name"
    (folder / company.UNITS).write_text("\n".join(lines).replace("Tucson-Sales,T", "Tuson-Sales,T"))
    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    for words in (
        "LOOK   Company folder",
        "no business unit called Tuson-Sales; did you mean Tucson-Sales?",
        "Mesa-Sales, Tucson-Sales, Yuma-Sales are in no line of business_units.csv",
        "entries that are guesses: 1; empty the `guess` of each that is right",
    ):
        assert words in said


@pytest.mark.parametrize("name", ["ST_API_URL", "ST_AUTH_URL"])
def test_a_server_that_cannot_be_reached_is_told(api, monkeypatch, name) -> None:
    monkeypatch.setenv(name, SILENT)
    check, text = to_do()
    assert check == "ServiceTitan"
    assert text.startswith(f"{SILENT} does not answer")
    assert name in text


# --- this computer ------------------------------------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """`answering(status, headers, body)` serves one answer to every request; returns its URL."""
    running = []

    def start(status: int, headers: dict[str, str], body: bytes = b"") -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on stderr."""

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}"

    yield start
    for each in running:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize(("minutes", "side"), [(10, "behind"), (-10, "ahead of")])
def test_a_clock_that_is_wrong_is_told(api, monkeypatch, answering, minutes, side) -> None:
    now = datetime.now(UTC) + timedelta(minutes=minutes)
    monkeypatch.setenv("ST_API_URL", answering(404, {"Date": format_datetime(now, usegmt=True)}))
    ok, text = findings()["Clock"]
    assert not ok
    assert any(f"{seconds} seconds {side} ServiceTitan's" in text for seconds in (598, 599, 600, 601, 602))


def test_a_clock_is_not_judged_by_a_server_that_does_not_say_the_time(api, monkeypatch, answering) -> None:
    monkeypatch.setenv("ST_API_URL", answering(404, {}))
    ok, text = findings()["Clock"]
    assert ok
    assert "not compared with a server" in text


def test_a_full_disk_is_told(api, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "FREE_GB", 1_000_000)
    check, text = to_do()
    assert check == "Disk"
    assert "and 1000000 GB are needed" in text


def test_the_time_zone_is_shown_by_its_clock(api, monkeypatch) -> None:
    monkeypatch.setenv("TIME_ZONE", "Asia/Kolkata")
    before = datetime.now(UTC) + timedelta(hours=5, minutes=30)
    ok, text = findings()["Time zone"]
    assert ok
    assert any(f"it is {before + timedelta(minutes=late):%H:%M} there" in text for late in (0, 1))


def test_a_warehouse_that_is_none_is_told(api) -> None:
    settings.load().warehouse.write_text("not a database")
    check, text = to_do()
    assert check == "Warehouse"
    assert "set WAREHOUSE in .env" in text


# --- BigQuery -----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(api, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty project of the emulator, behind the proxy, in the settings."""
    name = f"doctor-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("BQ_PROJECT", name)
    monkeypatch.setenv("BQ_LOCATION", "US")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", proxy.url)
    return name


def create_dataset(project: str, proxy: Proxy, name: str, location: str) -> None:
    options = {"api_endpoint": proxy.url}
    with bigquery.Client(project, AnonymousCredentials(), client_options=options) as opened:
        dataset = bigquery.Dataset(f"{project}.{name}")
        dataset.location = location
        opened.create_dataset(dataset)


def test_an_empty_project_is_all_that_bigquery_needs(project, proxy) -> None:
    create_dataset(project, proxy, "st_raw_v2", "US")
    found = findings()
    assert [check for check, (ok, _) in found.items() if not ok] == []
    assert found["BigQuery"][1] == f"queries run in project {project}, location US"
    assert found["BigQuery datasets"][1].startswith("1 of 5 exist; the next check creates st_ref_v2, st_mart_v2,")
    assert "Warehouse" not in found


def test_a_dataset_elsewhere_is_told(project, proxy) -> None:
    create_dataset(project, proxy, "st_raw_v2", "EU")
    assert to_do() == ("BigQuery datasets", "st_raw_v2 is in EU, not in US: set BQ_LOCATION=EU in .env.")


def test_without_the_right_to_run_queries_the_role_is_named(project, proxy) -> None:
    proxy.faults = [faults.denied(lambda request: request.submits, "bigquery.jobs.create", project)]
    check, text = to_do()
    assert check == "BigQuery"
    assert f"User does not have bigquery.jobs.create permission in project {project}" in text
    assert f"gcloud projects add-iam-policy-binding {project} --member=user:ACCOUNT" in text
    assert text.endswith("--role=roles/bigquery.jobUser`.")


def test_without_the_right_to_see_datasets_the_role_is_named(project, proxy) -> None:
    proxy.faults = [faults.denied(lambda request: "/datasets/" in request.path, "bigquery.datasets.get", project)]
    check, text = to_do()
    assert check == "BigQuery datasets"
    assert text.endswith("--role=roles/bigquery.dataEditor`.")


def test_without_the_right_to_make_tables_the_role_is_named(project, proxy) -> None:
    proxy.faults = [
        faults.denied(lambda request: "st_stage_v2.doctor" in request.statement, "bigquery.tables.create", project)
    ]
    check, text = to_do()
    assert check == "BigQuery tables"
    assert "bigquery.tables.create" in text
    assert "roles/bigquery.dataEditor" in text


def test_bigquery_that_is_switched_off_is_told(project, proxy) -> None:
    text = f"BigQuery API has not been used in project {project} before or it is disabled. Enable it by visiting …"
    refusal = faults.error(403, "accessNotConfigured", text)
    proxy.faults = [faults.Fault(lambda request: True, lambda *_: refusal)]
    assert to_do() == ("BigQuery", f"Run `gcloud services enable bigquery.googleapis.com --project={project}`.")


def test_an_emulator_that_is_gone_is_told(project, monkeypatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", SILENT)
    check, text = to_do()
    assert check == "BigQuery"
    assert text.startswith("BigQuery does not answer")


@pytest.fixture
def google(api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings for Google itself, on a machine without credentials, and not in the cloud."""
    for name in ("BIGQUERY_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BQ_PROJECT", "some-project")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr(sandbox_process, "LOOPBACK", ())  # where the ServiceTitan of these tests is


def test_no_google_credentials_are_told(google) -> None:
    check, text = to_do()
    assert check == "Google credentials"
    assert text.startswith("Google credentials are missing. Run `gcloud auth application-default login`")


def test_google_credentials_that_are_refused_are_told(google, monkeypatch, tmp_path, answering, capsys) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    refusal = b'{"error": "invalid_grant", "error_description": "Invalid grant: account not found"}'
    account = {
        "type": "service_account",
        "client_email": "nightly@some-project.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "token_uri": answering(400, {"Content-Type": "application/json"}, refusal),
    }
    file = tmp_path / "key.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    check, text = to_do()
    assert check == "Google credentials"
    assert text.startswith("Google refuses the credentials")
    assert "PRIVATE KEY" not in text
