"""The settings: the only reader of the environment and of `.env` (or the file that ENV_FILE names instead)."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stkpi.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Settings(BaseSettings):
    """The settings of this process; `.env.example` documents each one."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    st_client_id: str | None = None
    st_client_secret: SecretStr | None = None
    st_app_key: SecretStr | None = None
    st_tenant_id: str | None = None
    st_api_url: str = "https://api.servicetitan.io"
    st_auth_url: str = "https://auth.servicetitan.io/connect/token"

    bq_project: str | None = None
    bq_location: str = "US"
    bq_step_budget: ByteSize = ByteSize(200_000_000_000)
    bigquery_emulator_host: str | None = None
    warehouse: Path = ROOT / "runs" / "warehouse.duckdb"

    time_zone: str = "America/Phoenix"
    as_of: date | None = None
    company: Path | None = None

    github_token: SecretStr | None = None
    github_repository: str | None = None
    github_api_url: str = "https://api.github.com"
    slack_webhook: SecretStr | None = None

    sandbox_company: Literal["painting", "hvac"] = "painting"
    sandbox_port: int = Field(8900, ge=0, le=65535)
    sandbox_seed: int = 1
    sandbox_scale: float = Field(1, gt=0)

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):  # unknown; not a relative path; a folder of time zones
            raise ValueError("is not a time zone name such as America/Phoenix") from None
        return value


def load() -> Settings:
    """Read the settings from the environment and `.env`. Raises UserError for a value that cannot be used."""
    try:
        return Settings(_env_file=os.environ.get("ENV_FILE", ROOT / ".env"))
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        # Without the value: it may be a secret in the wrong place.
        raise UserError(f"{name} in the environment or .env is invalid: {first['msg']}.") from None
