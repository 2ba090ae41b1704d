"""Where the settings come from, and that a test never meets a company's own."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from dotenv import dotenv_values

from sandbox.companies import COMPANIES
from sandbox.tenant import LAST_DAY
from stkpi import settings
from stkpi.errors import UserError
from stkpi.runs import sandbox_process

OF_SERVICES = {"GITHUB_TOKEN", "GITHUB_REPOSITORY", "GITHUB_API_URL", "CI", "CLOUD_RUN_JOB", "JPY_SESSION_NAME"}


@pytest.fixture
def write_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """`write_env("ST_TENANT_ID=1")` makes it the file of settings, called other.env."""

    def write(content: str | bytes) -> None:
        file = tmp_path / "other.env"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setenv("ENV_FILE", str(file))

    return write


def test_a_file_of_another_name_is_read_and_the_environment_wins(write_env, monkeypatch) -> None:
    write_env("BQ_PROJECT=theirs\nTIME_ZONE=America/Denver\nAS_OF=\n")
    monkeypatch.setenv("TIME_ZONE", "America/Boise")
    read = settings.load()
    assert (read.bq_project, read.time_zone, read.as_of) == ("theirs", "America/Boise", None)


def test_a_value_that_cannot_be_used_is_named_and_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("SANDBOX_PORT", "s3cret")
    with pytest.raises(UserError, match=r"^SANDBOX_PORT in the environment or \.env must be a whole number") as raised:
        settings.load()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SANDBOX_SCALE", "0", "is too small"),
        ("SANDBOX_PORT", "99999", "is too large"),
        ("ST_REPORT_SECONDS", "soon", "must be a number"),
        ("AS_OF", "2025", "must be a day such as 2025-08-31"),
        ("BQ_STEP_BUDGET", "lots", "must be a size such as 200GB"),
    ],
)
def test_what_a_setting_must_be_is_told_in_plain_words(name, value, told, monkeypatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^{name} in the environment or \.env {told}\.$"):
        settings.load()


def test_a_line_that_cannot_be_read_is_told_by_its_number(write_env) -> None:
    write_env('ST_TENANT_ID=1\nST_CLIENT_SECRET="s3cret\n')
    with pytest.raises(UserError, match=r"^Line 2 of other\.env cannot be read: write NAME=value") as raised:
        settings.load()
    assert "s3cret" not in str(raised.value)


def test_a_file_of_settings_saved_by_notepad_is_read(write_env) -> None:
    write_env(b"\xef\xbb\xbfBQ_PROJECT=theirs\r\nTIME_ZONE=America/Denver\r\n")
    assert settings.load().bq_project == "theirs"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "America", "../etc", "/etc/passwd"])
def test_a_time_zone_that_is_none_is_refused(zone, monkeypatch) -> None:
    monkeypatch.setenv("TIME_ZONE", zone)
    with pytest.raises(UserError, match=r"TIME_ZONE .* is not a time zone name such as America/New_York"):
        settings.load()


def test_an_unknown_sandbox_company_is_refused_with_those_that_exist(monkeypatch) -> None:
    monkeypatch.setenv("SANDBOX_COMPANY", "roofing")
    with pytest.raises(UserError) as raised:
        settings.load()
    assert str(raised.value) == ("SANDBOX_COMPANY in the environment or .env must be 'painting' or 'hvac'.")
    assert get_args(settings.Settings.model_fields["sandbox_company"].annotation) == tuple(COMPANIES)


# --- a made-up company, and several real ones -------------------------------------------------------------------------


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh clone: no company is named, no credential is set, and there is no file of settings."""
    monkeypatch.delenv("COMPANY")
    monkeypatch.delenv("TIME_ZONE")


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(("name", "zone"), [("painting", "America/Phoenix"), ("hvac", "America/New_York")])
def test_without_credentials_every_command_has_the_made_up_company_s_own_settings(name, zone, monkeypatch) -> None:
    monkeypatch.setenv("SANDBOX_COMPANY", name)
    read, own = settings.load(), settings.RUNS / "sandbox" / name
    assert read.is_demo
    assert (read.warehouse, read.company) == (own / "warehouse.duckdb", own / "company")
    assert (read.as_of, read.time_zone, read.runs) == (LAST_DAY, zone, settings.RUNS)
    assert zone == COMPANIES[name].time_zone
    monkeypatch.setenv("AS_OF", "2025-08-24")
    assert settings.load().as_of == date(2025, 8, 24)


@pytest.mark.usefixtures("nothing_set")
def test_one_credential_is_enough_to_leave_the_made_up_company_alone(monkeypatch) -> None:
    monkeypatch.setenv("ST_APP_KEY", "key")
    monkeypatch.setenv("TIME_ZONE", "America/Denver")
    read = settings.load()
    assert not read.is_demo
    assert (read.warehouse, read.company) == (settings.RUNS / "warehouse.duckdb", settings.ROOT / "company")
    assert read.as_of is None
    with pytest.raises(UserError) as raised, sandbox_process.provide_tenant():
        pass
    assert str(raised.value) == (
        "ServiceTitan's credentials are not complete: "
        "fill in ST_CLIENT_ID and ST_CLIENT_SECRET and ST_TENANT_ID in .env."
    )


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8900"])
def test_a_made_up_company_is_never_written_to_bigquery(url, monkeypatch) -> None:
    monkeypatch.setenv("BQ_PROJECT", "theirs")
    monkeypatch.setenv("TIME_ZONE", "America/Denver")
    for name in settings.CREDENTIALS if url else ():
        monkeypatch.setenv(name.upper(), "of the sandbox")
    monkeypatch.setenv("ST_API_URL", url)
    with pytest.raises(UserError, match=r"never written to BigQuery.*ST_CLIENT_ID.*BQ_PROJECT"):  # noqa: SIM117 inside
        with sandbox_process.provide_tenant():
            pytest.fail("a tenant was provided")


def test_a_second_company_has_its_own_settings_warehouse_and_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("ENV_FILE")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    folder = tmp_path / "companies" / "acme"
    folder.mkdir(parents=True)
    (tmp_path / ".env").write_text("ST_TENANT_ID=1\nBQ_PROJECT=first\n")
    (folder / ".env").write_text("ST_TENANT_ID=2\nTIME_ZONE=America/Denver\n")
    monkeypatch.setenv("COMPANY", "companies/acme")
    read = settings.load()
    assert (read.st_tenant_id, read.bq_project, read.company) == ("2", None, folder)
    assert (read.runs, read.warehouse) == (settings.RUNS / "acme", settings.RUNS / "acme" / "warehouse.duckdb")


@pytest.mark.usefixtures("nothing_set")
def test_a_company_that_is_named_is_never_the_made_up_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COMPANY", str(tmp_path))
    monkeypatch.setenv("TIME_ZONE", "America/Denver")
    assert not settings.load().is_demo
    with pytest.raises(UserError, match=r"credentials are not complete: fill in ST_CLIENT_ID and"):  # noqa: SIM117 inside
        with sandbox_process.provide_tenant():
            pytest.fail("a tenant was provided")


def test_a_second_company_without_settings_does_not_get_those_of_the_first(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("ENV_FILE")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setenv("COMPANY", "companies/acme")
    (tmp_path / ".env").write_text("ST_TENANT_ID=1\n")
    with pytest.raises(UserError, match=r"^companies/acme/\.env is not there, and the settings in \.env are another"):
        settings.load()
    (tmp_path / ".env").write_text("ST_TENANT_ID=1\nCOMPANY=companies/acme\n")  # its only company is there
    assert settings.load().st_tenant_id == "1"


@pytest.mark.parametrize("line", ["cak1.SECRET\n", "x9SECRET==\n"])
def test_a_line_that_may_be_a_secret_is_not_shown(write_env, line) -> None:
    write_env(f"ST_TENANT_ID=1\n{line}")
    with pytest.raises(UserError, match=r"^Line \d+ of other\.env sets what nothing reads") as raised:
        settings.load()
    assert "SECRET" not in str(raised.value)


def test_settings_in_another_encoding_are_told(write_env) -> None:
    write_env("# José\nST_TENANT_ID=1\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"^other\.env is not UTF-8 text: save it as UTF-8\.$"):
        settings.load()


def test_a_name_that_nothing_reads_is_told_with_the_nearest_one(write_env) -> None:
    write_env("ST_CLIENT_ID=a\nST_CLIENTSECRET=b\n")
    with pytest.raises(UserError) as raised:
        settings.load()
    assert str(raised.value) == "Nothing reads ST_CLIENTSECRET in other.env; did you mean ST_CLIENT_SECRET?"


def test_a_named_file_that_is_not_there_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ENV_FILE", str(tmp_path / "acme.env"))
    with pytest.raises(UserError, match=r"ENV_FILE names is not there: .*acme\.env"):
        settings.load()


def test_the_example_is_read_and_has_every_setting_of_a_company() -> None:
    example = set(dotenv_values(settings.ROOT / ".env.example"))
    assert {name.upper() for name in settings.Settings.model_fields} - example == OF_SERVICES
    assert example <= {name.upper() for name in settings.Settings.model_fields}


def test_no_test_and_no_process_of_a_test_meets_a_company() -> None:
    assert settings.load().company == Path(os.environ["COMPANY"])
    assert settings.load().bq_project is None
    show = "from stkpi import settings; print(settings.load().bq_project, settings.load().st_client_id)"
    said = subprocess.run([sys.executable, "-c", show], env=os.environ, capture_output=True, text=True, check=True)
    assert said.stdout == "None None\n"


def test_a_company_with_credentials_must_say_its_time_zone(monkeypatch) -> None:
    monkeypatch.delenv("TIME_ZONE")
    monkeypatch.setenv("ST_CLIENT_ID", "a-company")
    with pytest.raises(UserError, match=r"^TIME_ZONE is not set: put your company's into \.env, such as"):
        settings.load()
    monkeypatch.setenv("TIME_ZONE", "America/Phoenix")
    assert settings.load().time_zone == "America/Phoenix"
