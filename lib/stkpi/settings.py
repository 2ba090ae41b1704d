"""The settings: the only reader of the environment and of `.env`.

The file of settings is the one that ENV_FILE names, else the `.env` in the folder that the environment's COMPANY names,
else `.env` beside the Makefile. The environment wins over it. While neither credentials nor BQ_PROJECT are set, the
made-up company's own settings stand behind both: its warehouse, its folder, its time zone and its last day.
"""

from __future__ import annotations

import io
import os
import re
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stkpi.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs"
COMPANY = ROOT / "company"
SANDBOX = ROOT / "lib" / "sandbox"
CREDENTIALS = ("st_client_id", "st_client_secret", "st_app_key", "st_tenant_id")
PATTERN = "a name with one {} in it, such as st_{}_v3 (letters, digits and _)"
ENCODING = "utf-8-sig"  # Notepad may begin a file with a byte-order mark
_PATTERN = re.compile(r"([A-Za-z_]\w*)?\{\}\w*", re.ASCII)
# What a setting must be, by the kind of pydantic's error: its own words are for programmers.
EXPECTED = {
    "int": "must be a whole number",
    "float": "must be a number",
    "greater_than": "is too small",
    "less_than": "is too large",
    "date": "must be a day such as 2025-08-31",
    "byte_size": "must be a size such as 200GB",
}


class Settings(BaseSettings):
    """The settings of this process; `.env.example` documents each one."""

    model_config = SettingsConfigDict(env_ignore_empty=True, env_file_encoding=ENCODING, extra="ignore", frozen=True)

    st_client_id: str | None = None
    st_client_secret: SecretStr | None = None
    st_app_key: SecretStr | None = None
    st_tenant_id: str | None = None
    st_api_url: str = "https://api.servicetitan.io"
    st_auth_url: str = "https://auth.servicetitan.io/connect/token"
    st_report_seconds: float = Field(60, ge=0)
    st_report_minutes: float = Field(15, ge=0)

    bq_project: str | None = None
    bq_location: str = "US"
    bq_step_budget: ByteSize = ByteSize(200_000_000_000)
    bigquery_emulator_host: str | None = None
    datasets: str = "st_{}_v2"
    warehouse: Path = RUNS / "warehouse.duckdb"

    time_zone: str = "UTC"  # of nobody: `load` wants it to be said
    as_of: date | None = None
    company: Path = COMPANY
    ci: str | None = None  # set by GitHub and other services whose files more people can read
    cloud_run_job: str | None = None  # set by Cloud Run
    jpy_session_name: str | None = None  # set by Jupyter for a notebook that a person has opened

    github_token: SecretStr | None = None
    github_repository: str | None = None
    github_api_url: str = "https://api.github.com"
    slack_webhook: SecretStr | None = None
    mail_server: SecretStr | None = None
    mail_from: str | None = None
    mail_to: str | None = None

    sandbox_company: Literal["painting", "hvac"] = "painting"
    sandbox_port: int = Field(8900, ge=0, le=65535)
    sandbox_seed: int = 1
    sandbox_scale: float = Field(1, gt=0)
    sandbox_report_seconds: float = Field(1, ge=0)

    @property
    def runs(self) -> Path:
        """The folder of the company's runs: `runs/`, and one in it for each other company."""
        alone = self.company == COMPANY or self.company.is_relative_to(RUNS)
        return RUNS if alone else RUNS / self.company.name

    @property
    def shares_pages(self) -> bool:
        """Whether the pages are written by a service, where others than their owner can read them."""
        return bool(self.ci or self.cloud_run_job)

    @property
    def missing_credentials(self) -> tuple[str, ...]:
        """The names of ServiceTitan's credentials that have no value."""
        return tuple(name.upper() for name in CREDENTIALS if not getattr(self, name))

    @property
    def is_demo(self) -> bool:
        """Whether nothing of a company's own is set: commands then talk to the made-up company."""
        is_named = self.company != COMPANY and not self.company.is_relative_to(RUNS)
        bigquery = bool(self.bq_project) and not self.bigquery_emulator_host
        return len(self.missing_credentials) == len(CREDENTIALS) and not bigquery and not is_named

    def compute_today(self) -> date:
        """Return the day that it is in the tenant's time zone."""
        return datetime.now(ZoneInfo(self.time_zone)).date()

    @field_validator("warehouse", "company")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return ROOT / value  # a kernel of Jupyter works in another folder

    @field_validator("datasets")
    @classmethod
    def _check_datasets(cls, value: str) -> str:
        if not _PATTERN.fullmatch(value):
            raise ValueError(f"is not {PATTERN}")
        return value

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):  # unknown; not a relative path; a folder of time zones
            raise ValueError("is not a time zone name such as America/New_York") from None
        return value


def check_pattern(value: str) -> str:
    """Return the names of datasets (see DATASETS) if they can be. Raises UserError."""
    if not _PATTERN.fullmatch(value):
        raise UserError(f"OLD={value} is not {PATTERN}.")
    return value


def load() -> Settings:
    """Read the settings. Raises UserError for a value that cannot be used and a name in the file that nothing reads."""
    file = _find_file()
    _check_names(file)
    read = _read(file)
    if read.is_demo:
        read = _read(SANDBOX / f"{read.sandbox_company}.env", file)
    if "time_zone" not in read.model_fields_set:
        raise UserError("TIME_ZONE is not set: put your company's into .env, such as TIME_ZONE=America/New_York.")
    if "warehouse" not in read.model_fields_set:
        read = read.model_copy(update={"warehouse": read.runs / "warehouse.duckdb"})
    return read


def _find_file() -> Path:
    """Return the file of settings; it may be missing, unless ENV_FILE names it."""
    if named := os.environ.get("ENV_FILE"):
        if not (ROOT / named).exists():
            raise UserError(f"The file of settings that ENV_FILE names is not there: {named}.")
        if (ROOT / named).is_dir():
            raise UserError(f"ENV_FILE names a folder, {named}: name the file of settings in it.")
        return ROOT / named
    company, file = os.environ.get("COMPANY", ""), ROOT / ".env"
    folder = ROOT / company
    if (folder / ".env").exists():
        return folder / ".env"
    # Settings of one company must not read its records into the files of another one.
    is_another = company and folder != COMPANY and not folder.is_relative_to(RUNS)
    if is_another and file.exists() and dotenv_values(file, encoding=ENCODING).get("COMPANY") != company:
        raise UserError(
            f"{company}/.env is not there, and the settings in .env are another company's: copy .env.example to it."
        )
    return file


def _check_names(file: Path) -> None:
    """Refuse a name that nothing reads: a typing error would leave its setting at the default, without a word."""
    known = {name.upper() for name in Settings.model_fields}
    if not file.is_file():
        return
    try:
        lines = list(parse_stream(io.StringIO(file.read_text(encoding=ENCODING))))
    except UnicodeDecodeError:
        raise UserError(f"{file.name} is not UTF-8 text: save it as UTF-8.") from None
    for line in lines:  # none is shown: it may be a secret on a line of its own
        where = f"Line {line.original.line} of {file.name}"
        if line.error:
            raise UserError(f"{where} cannot be read: write NAME=value, and a value with blanks or # in quotes.")
        if line.key is None or line.key.upper() in known:
            continue
        if not (near := get_close_matches(line.key.upper(), known, n=1)):
            raise UserError(f"{where} sets what nothing reads: .env.example has the names that there are.")
        raise UserError(f"Nothing reads {line.key} in {file.name}; did you mean {near[0]}?")


def _read(*files: Path) -> Settings:
    """Read the environment and the files, the last one first."""
    try:
        return Settings(_env_file=files)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        expected = next((words for kind, words in EXPECTED.items() if first["type"].startswith(kind)), None)
        if "expected" in first.get("ctx", {}):
            expected = f"must be {first['ctx']['expected']}"
        # Without the value: it may be a secret in the wrong place.
        told = expected or str(first.get("ctx", {}).get("error", first["msg"]))
        raise UserError(f"{name} in the environment or .env {told}.") from None
