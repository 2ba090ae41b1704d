"""Where the settings come from, and that a test never meets a company's own."""

import os
import subprocess
import sys
from typing import get_args

import pytest

from sandbox.companies import COMPANIES
from stkpi import settings
from stkpi.errors import UserError


def test_a_file_of_another_name_is_read_and_the_environment_wins(tmp_path, monkeypatch) -> None:
    file = tmp_path / "other.env"
    file.write_text("BQ_PROJECT=theirs\nTIME_ZONE=America/Denver\nAS_OF=\n")
    monkeypatch.setenv("ENV_FILE", str(file))
    monkeypatch.setenv("TIME_ZONE", "America/Boise")
    read = settings.load()
    assert (read.bq_project, read.time_zone, read.as_of) == ("theirs", "America/Boise", None)


def test_a_value_that_cannot_be_used_is_named_and_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("SANDBOX_PORT", "s3cret")
    with pytest.raises(UserError, match=r"^SANDBOX_PORT in the environment or \.env is invalid") as raised:
        settings.load()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "America", "../etc", "/etc/passwd"])
def test_a_time_zone_that_is_none_is_refused(zone, monkeypatch) -> None:
    monkeypatch.setenv("TIME_ZONE", zone)
    with pytest.raises(UserError, match=r"TIME_ZONE .* is not a time zone name such as America/Phoenix"):
        settings.load()


def test_an_unknown_sandbox_company_is_refused_with_those_that_exist(monkeypatch) -> None:
    monkeypatch.setenv("SANDBOX_COMPANY", "roofing")
    with pytest.raises(UserError) as raised:
        settings.load()
    assert str(raised.value) == (
        "SANDBOX_COMPANY in the environment or .env is invalid: Input should be 'painting' or 'hvac'."
    )
    assert get_args(settings.Settings.model_fields["sandbox_company"].annotation) == tuple(COMPANIES)


def test_no_test_and_no_process_of_a_test_meets_a_company() -> None:
    assert settings.load() == settings.Settings(_env_file=None)
    assert settings.load().bq_project is None
    show = "from stkpi import settings; print(settings.load().bq_project, settings.load().st_client_id)"
    said = subprocess.run([sys.executable, "-c", show], env=os.environ, capture_output=True, text=True, check=True)
    assert said.stdout == "None None\n"
