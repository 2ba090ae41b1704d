"""`make doctor`: is everything there that a run needs? One line a check; each missing thing with how to get it.

A check is a function of the settings that returns how things are, or raises UserError with what to do. The checks of a
chain build on each other: the first that fails ends its chain.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

import google.auth
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud import bigquery

from stkpi import log
from stkpi.errors import UserError, WarehouseError
from stkpi.servicetitan.client import Client, NotPermitted, RequestFailed
from stkpi.servicetitan.entities import ENTITIES
from stkpi.settings import ROOT, Settings
from stkpi.warehouse import DATASETS, connect

FREE_GB = 2  # a year of a company with 600 jobs a week takes a tenth of it; the reports and a spilling query the rest
SKEW_SECONDS = 60  # Google refuses tokens signed 5 minutes off, and the newest records of a night end at our clock
SECONDS = 20  # that a server has for its answer
_SCOPES = ("https://www.googleapis.com/auth/bigquery",)
_MODULES = {"jpm": "Job Planning and Management", "crm": "CRM"}

Check = Callable[[Settings], str]


@dataclass(frozen=True)
class Finding:
    """What a check found: `text` says how it is, or what is missing and how to get it."""

    check: str
    ok: bool
    text: str

    def line(self) -> str:
        """As it is printed."""
        return f"{'ok   ' if self.ok else 'TO DO'}  {self.check:<22}  {self.text}"


def examine(settings: Settings) -> Iterator[Finding]:
    """The findings of every check that applies to these settings, as they come."""
    for chain in _chains(settings):
        for name, check in chain:
            try:
                text, ok = check(settings), True
            except (UserError, WarehouseError) as error:
                text, ok = str(error), False
            yield Finding(name, ok, log.redact(text))
            if not ok:
                break


def _chains(settings: Settings) -> list[list[tuple[str, Check]]]:
    if settings.bq_project:
        warehouse = [
            ("Google credentials", google_credentials),
            ("BigQuery", bigquery_answers),
            ("BigQuery datasets", datasets),
            ("BigQuery tables", tables_can_be_written),
        ]
    else:
        warehouse = [("Warehouse", warehouse_opens)]
    return [
        [("Python", python)],
        [("Time zone", time_zone)],
        [("Disk", disk)],
        [("Clock", clock)],
        [("ServiceTitan", servicetitan_answers), ("ServiceTitan sign-in", sign_in), ("ServiceTitan scopes", scopes)],
        warehouse,
    ]


# --- this computer ------------------------------------------------------------------------------------------------


def python(_: Settings) -> str:
    """The version that runs; an older one than 3.11 does not get this far."""
    return platform.python_version()


def time_zone(settings: Settings) -> str:
    """The tenant's time zone, shown by its clock: the API does not tell it, so a person has to look."""
    now = datetime.now(ZoneInfo(settings.time_zone))
    until = f" The KPIs end at AS_OF, {settings.as_of}." if settings.as_of else ""
    return f"{settings.time_zone}: it is {now:%H:%M} there. If not so at your company, set TIME_ZONE in .env.{until}"


def disk(settings: Settings) -> str:
    """Room, and the right to write, where the warehouse and the reports are."""
    folders = {ROOT / "runs"} | (set() if settings.bq_project else {settings.warehouse.absolute().parent})
    told = []
    for folder in sorted(folders):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK):
            raise UserError(f"{there} cannot be written to: give this user the right, or set WAREHOUSE in .env.")
        free = shutil.disk_usage(there).free / 1e9
        if free < FREE_GB:
            raise UserError(
                f"{free:.1f} GB are free at {folder}, {FREE_GB} GB are needed: delete old folders of runs/, "
                "or move the warehouse (WAREHOUSE in .env)."
            )
        told.append(f"{free:,.0f} GB free at {folder}")
    return "; ".join(told)


def clock(settings: Settings) -> str:
    """This computer's clock against the Date header of ServiceTitan's answers, which is exact to a second."""
    try:
        before = datetime.now(UTC)
        said = requests.get(settings.st_api_url, timeout=SECONDS).headers["Date"]
        after = datetime.now(UTC)
        server = parsedate_to_datetime(said)
    except (requests.RequestException, KeyError, ValueError):
        return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, compared with no server: none says the time"
    seconds = round((before + (after - before) / 2 - server).total_seconds())
    if abs(seconds) > SKEW_SECONDS:
        side = "ahead of" if seconds > 0 else "behind"
        raise UserError(
            f"This computer's clock is {abs(seconds):,} seconds {side} ServiceTitan's: set "
            "it by the internet (Linux: `sudo timedatectl set-ntp true`; Mac and Windows: Date & Time, automatically)."
        )
    return f"{before:%Y-%m-%d %H:%M} UTC, as at ServiceTitan"


# --- ServiceTitan -------------------------------------------------------------------------------------------------


def servicetitan_answers(settings: Settings) -> str:
    """Whether both servers can be reached; what they say does not matter yet."""
    for name, url in (("ST_API_URL", settings.st_api_url), ("ST_AUTH_URL", settings.st_auth_url)):
        try:
            requests.get(url, timeout=SECONDS)
        except requests.RequestException:
            raise UserError(
                f"{url} does not answer: check the internet connection, a proxy or firewall, and {name} in .env."
            ) from None
    return f"{settings.st_api_url} and {settings.st_auth_url} answer"


def sign_in(settings: Settings) -> str:
    """A token, and one call with it. A missing scope is no matter of the sign-in."""
    try:
        Client(settings).get(ENTITIES["business_units"].path, {"pageSize": 1})
    except NotPermitted:
        pass
    except RequestFailed as error:
        raise UserError(f"ServiceTitan cannot be used now: {error}. Try again in a few minutes.") from None
    return f"tenant {settings.st_tenant_id}"


def scopes(settings: Settings) -> str:
    """One small call to every endpoint that the ingest reads."""
    client = Client(settings)

    def ask(path: str, params: dict[str, object]) -> Exception | None:
        try:
            client.get(path, params)
        except (RequestFailed, UserError) as error:
            return error
        return None

    today = datetime.now(UTC).date().isoformat()
    asked = [(entity, entity.path, {"pageSize": 1}) for entity in ENTITIES.values()]
    asked += [
        (entity, entity.feed_path, {"from": today}) for entity in ENTITIES.values() if entity.incremental == "feed"
    ]
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(ask, *zip(*[(path, params) for _, path, params in asked], strict=True)))
    refused = [entity.path for (entity, _, _), error in zip(asked, errors, strict=True) if _is(error, NotPermitted)]
    if len(refused) == len(asked):
        raise UserError(
            "ServiceTitan permits nothing (403): check ST_TENANT_ID in .env, and that the API application is connected "
            "there (Settings > Integrations > API Application Access)."
        )
    if refused:
        raise UserError(
            f"not permitted (403): {'; '.join(dict.fromkeys(map(_scope, refused)))}. At developer.servicetitan.io > My "
            "Apps > Edit give the app View on them; then accept its new version in ServiceTitan, Settings > "
            "Integrations > API Application Access."
        )
    failed = next((error for error in errors if error), None)
    if failed:
        raise UserError(f"{failed}. Try again in a few minutes.")
    return f"all {len(asked)} endpoints may be read"


def _is(error: Exception | None, kind: type[Exception]) -> bool:
    return isinstance(error, kind)


def _scope(path: str) -> str:
    """How the developer portal names what an endpoint needs: accounting/v2/tenant/{tenant}/gross-pay-items."""
    module, *_, resource = path.split("/")
    return f"{_MODULES.get(module, module.title())} > {resource.replace('-', ' ').title()}"


# --- the warehouse ------------------------------------------------------------------------------------------------


def warehouse_opens(settings: Settings) -> str:
    """The DuckDB file can be opened and written; it is not made if it is not there yet."""
    if not settings.warehouse.exists():
        return f"{settings.warehouse} comes with the first run; for BigQuery set BQ_PROJECT in .env"
    _write(settings)
    return f"{settings.warehouse}, {settings.warehouse.stat().st_size / 1e6:,.0f} MB"


def tables_can_be_written(settings: Settings) -> str:
    """As a run does it: the datasets that are missing are made, and a table comes and goes in the scratch one."""
    with _explained(settings, "roles/bigquery.dataEditor"):
        _write(settings)
    return "can be made, written and dropped"


def _write(settings: Settings) -> None:
    with connect(settings, wait=1) as warehouse:
        warehouse.execute(
            "CREATE OR REPLACE TABLE st_stage_v2.doctor AS SELECT 1 AS works", "DROP TABLE st_stage_v2.doctor"
        )


def google_credentials(settings: Settings) -> str:
    """Application Default Credentials that Google still takes; the emulator needs none."""
    if settings.bigquery_emulator_host:
        return f"none needed: {settings.bigquery_emulator_host} is an emulator (BIGQUERY_EMULATOR_HOST)"
    how = (
        "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the key file of a "
        "service account; in the cloud, give the job a service account."
    )
    try:
        _credentials().refresh(Request())
    except DefaultCredentialsError:
        raise UserError(f"No Google credentials are here. {how}") from None
    except GoogleAuthError:
        raise UserError(f"Google refuses the credentials that are here: expired or taken back. {how}") from None
    return f"those of {_account(settings) or 'your own account'}"


def bigquery_answers(settings: Settings) -> str:
    """A query runs in the project: it exists, BigQuery is on, and jobs may be started."""
    with _explained(settings, "roles/bigquery.jobUser"), _client(settings) as client:
        client.query_and_wait("SELECT 1", api_timeout=SECONDS, wait_timeout=SECONDS, retry=None, job_retry=None)
    return f"queries run in project {settings.bq_project}, location {settings.bq_location}"


def datasets(settings: Settings) -> str:
    """The datasets that are there already are in the location of the settings: one query cannot read two."""
    here = {}
    with _explained(settings, "roles/bigquery.dataEditor"), _client(settings) as client:
        for name in DATASETS:
            with suppress(exceptions.NotFound):
                here[name] = client.get_dataset(name, retry=None, timeout=SECONDS).location
    for name, location in here.items():
        if location.upper() != settings.bq_location.upper():
            raise UserError(
                f"{name} is in {location}, not in {settings.bq_location}: set BQ_LOCATION={location} in .env."
            )
    missing = [name for name in DATASETS if name not in here]
    return f"{len(here)} of {len(DATASETS)} are there" + (f"; now made: {', '.join(missing)}" if missing else "")


@contextmanager
def _explained(settings: Settings, role: str) -> Iterator[None]:
    """Google's refusals in the block, as UserError: what to do, such as who has to give the account `role`."""
    project = settings.bq_project
    try:
        yield
    except exceptions.Forbidden as error:
        if "has not been used" in error.message or "is disabled" in error.message:
            raise UserError(f"Run `gcloud services enable bigquery.googleapis.com --project={project}`.") from None
        account = _account(settings)
        kind = "serviceAccount" if account.endswith("gserviceaccount.com") else "user"
        raise UserError(
            f"{error.message} Have an owner of the project run `gcloud projects add-iam-policy-binding {project} "
            f"--member={kind}:{account or 'ACCOUNT'} --role={role}`."
        ) from None
    except (exceptions.NotFound, exceptions.BadRequest) as error:
        raise UserError(
            f"Google knows no project {project} with BigQuery in {settings.bq_location}: check BQ_PROJECT and "
            f"BQ_LOCATION in .env ({error.message})."
        ) from None
    except (exceptions.GoogleAPICallError, requests.RequestException, TimeoutError):
        raise UserError("BigQuery does not answer: check the internet connection, and try again in a minute.") from None


def _client(settings: Settings) -> bigquery.Client:
    host = settings.bigquery_emulator_host
    return bigquery.Client(
        settings.bq_project,
        AnonymousCredentials() if host else _credentials(),
        location=settings.bq_location,
        client_options={"api_endpoint": host} if host else None,
    )


def _credentials() -> Credentials:
    return google.auth.default(scopes=_SCOPES)[0]


def _account(settings: Settings) -> str:
    """Whose credentials they are, as far as they say it: those of a person often do not."""
    if settings.bigquery_emulator_host:
        return ""
    credentials = _credentials()
    with suppress(GoogleAuthError):
        credentials.refresh(Request())  # in the cloud the account has no name before
    return getattr(credentials, "service_account_email", "") or getattr(credentials, "account", "")
