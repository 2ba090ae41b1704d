"""`make doctor`: check everything that a run needs. One line per check; if something is missing, how to get it.

A check is a function of the settings that returns what it found, or raises UserError with what to do. The checks of a
chain build on each other: the first one that fails ends its chain.
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
from typing import Any
from zoneinfo import ZoneInfo

import google.auth
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud import bigquery

from stkpi import company, log
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import state
from stkpi.kpis.definition import read_definitions
from stkpi.marts.names import find_unmapped_units, find_unmatched_names
from stkpi.proposal.folder import list_guesses
from stkpi.runs import sandbox_process
from stkpi.servicetitan.client import Client, NotPermitted, RequestFailed, Unavailable
from stkpi.servicetitan.endpoints import list_entities
from stkpi.servicetitan.entities import ENTITIES, Entity
from stkpi.settings import Settings
from stkpi.warehouse import DATASETS, connect
from stkpi.warehouse.names import map_name

FREE_GB = 2  # a year of a company with 600 jobs a week takes a tenth of it; reports and a query that spills, the rest
SKEW_SECONDS = 60  # Google refuses tokens signed 5 minutes off, and a run reads records up to the time of this clock
TIMEOUT = 20  # seconds that a server has to answer
_SCOPES = ("https://www.googleapis.com/auth/bigquery",)
_MODULES = {"jpm": "Job Planning and Management", "crm": "CRM"}

Check = Callable[[Settings], str]


@dataclass(frozen=True)
class Finding:
    """What a check found: `text` says what is there, or what is missing and how to get it."""

    check: str
    ok: bool
    text: str
    note: bool = False  # nothing that stops a night, but a person should look at it

    def format_line(self) -> str:
        """Return the line to print."""
        mark = "LOOK" if self.note else "ok" if self.ok else "TO DO"
        return f"{mark:<5}  {self.check:<22}  {self.text}"


class Note(Exception):
    """What a check found that does not stop a night, but that a person should look at."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check that applies to these settings, and yield each finding as it comes."""
    for chain in _list_chains(settings):
        for name, check in chain:
            note = False
            try:
                text, ok = check(settings), True
            except Note as found:
                text, ok, note = str(found), True, True
            except (UserError, WarehouseError) as error:
                text, ok = str(error), False
            yield Finding(name, ok, log.redact(text), note)
            if not ok or (note and check is check_credentials):
                break


def _list_chains(settings: Settings) -> list[list[tuple[str, Check]]]:
    warehouse: list[tuple[str, Check]]
    if settings.bq_project:
        warehouse = [
            ("Google credentials", check_google_credentials),
            ("BigQuery", check_bigquery),
            ("BigQuery datasets", check_datasets),
            ("BigQuery tables", check_tables),
        ]
    else:
        warehouse = [("Warehouse", check_warehouse)]
    warehouse += [("Tenant of the tables", check_tenant_of_tables), ("Company folder", check_company)]
    return [
        [("Python", check_python)],
        [("Time zone", check_time_zone)],
        [("Disk", check_disk)],
        [
            ("Credentials", check_credentials),
            ("ServiceTitan", check_servicetitan),
            ("Clock", check_clock),
            ("ServiceTitan sign-in", check_sign_in),
            ("ServiceTitan scopes", check_scopes),
        ],
        warehouse,
    ]


# --- this computer ------------------------------------------------------------------------------------------------


def check_python(_: Settings) -> str:
    """Return the version; one older than 3.11 does not get this far."""
    return platform.python_version()


def check_time_zone(settings: Settings) -> str:
    """Return the time in the tenant's time zone: the API does not say which one it is, so a person has to look."""
    now = datetime.now(ZoneInfo(settings.time_zone))
    until = f" The KPIs end at AS_OF, {settings.as_of}." if settings.as_of else ""
    hint = f"If that is not your company's time, set TIME_ZONE in .env.{until}"
    return f"{settings.time_zone}: it is {now:%H:%M} there. {hint}"


def check_disk(settings: Settings) -> str:
    """Check the free space, and the permission to write, of the folders of the warehouse and the reports."""
    folders = {settings.runs} | (set() if settings.bq_project else {settings.warehouse.absolute().parent})
    found = []
    for folder in sorted(folders):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(existing, os.W_OK):
            raise UserError(f"This user cannot write to {existing}: grant the permission, or set WAREHOUSE in .env.")
        free = shutil.disk_usage(existing).free / 1e9
        if free < FREE_GB:
            raise UserError(
                f"{free:.1f} GB are free at {folder}, and {FREE_GB} GB are needed: delete old folders of runs/, "
                "or move the warehouse (WAREHOUSE in .env)."
            )
        found.append(f"{free:,.0f} GB free at {folder}")
    return "; ".join(found)


def check_clock(settings: Settings) -> str:
    """Compare this computer's clock with the Date header of ServiceTitan's answers, which is exact to a second."""
    try:
        before = datetime.now(UTC)
        header = requests.get(settings.st_api_url, timeout=TIMEOUT).headers["Date"]
        after = datetime.now(UTC)
        server = parsedate_to_datetime(header)
    except (requests.RequestException, KeyError, ValueError):
        return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, not compared with a server: ServiceTitan's answer has no date"
    seconds = round((before + (after - before) / 2 - server).total_seconds())
    if abs(seconds) > SKEW_SECONDS:
        side = "ahead of" if seconds > 0 else "behind"
        raise UserError(
            f"This computer's clock is {abs(seconds):,} seconds {side} ServiceTitan's: set it "
            "from the internet (Linux: `sudo timedatectl set-ntp true`; Mac and Windows: Date & Time, automatically)."
        )
    return f"{before:%Y-%m-%d %H:%M} UTC, the same as at ServiceTitan"


# --- the company ----------------------------------------------------------------------------------------------------


def check_credentials(settings: Settings) -> str:
    """Check that all of ServiceTitan's credentials are set, before any server is asked; none of them is the demo."""
    sandbox_process.check_tenant(settings)
    if settings.is_demo:
        raise Note(
            f"demo: {len(settings.missing_credentials)} credentials are missing, so a night runs on a made-up company "
            f"({settings.sandbox_company}). For your own, fill in {', '.join(settings.missing_credentials)} in .env."
        )
    return "all four are set"


def check_tenant_of_tables(settings: Settings) -> str:
    """Check that the tables are those of the tenant in the settings: the rows of two companies must never mix."""
    with connect(settings, wait=1, read_only=True) as warehouse:
        try:
            owner = state.find_owner(warehouse)
        except warehouse.NotFound:
            owner = None
    if owner and settings.st_tenant_id:
        state.check_owner(owner, settings.st_tenant_id)
    return f"tenant {owner}" if owner else "nothing was read yet"


def check_company(settings: Settings) -> str:
    """Look at the company's own files: guesses that nobody confirmed, and names that ServiceTitan does not have."""
    folder = company.find_folder(settings)
    where = company.show_path(folder)
    if not (folder / company.UNITS).exists():
        raise Note(f"{where} has no {company.UNITS} yet: the next night proposes it, or `make setup` now.")
    read_definitions(settings)
    guesses = list_guesses(settings)
    with connect(settings, wait=1, read_only=True) as warehouse:
        names = [str(one) for one in find_unmatched_names(warehouse, settings)]
        unmapped = find_unmapped_units(warehouse, settings)
    if unmapped:
        names.append(f"{', '.join(unmapped)} {'are' if len(unmapped) > 1 else 'is'} in no line of {company.UNITS}")
    if len(guesses):
        names.append(f"entries that are guesses: {len(guesses)}; empty the `guess` of each that is right")
    if names:
        raise Note(f"{where}: {'; '.join(name.rstrip('.') for name in names)}.")
    return f"{where}: every unit is listed, and nothing is a guess"


# --- ServiceTitan -------------------------------------------------------------------------------------------------


def check_servicetitan(settings: Settings) -> str:
    """Check that both servers answer; what they answer does not matter yet."""
    for name, url in (("ST_API_URL", settings.st_api_url), ("ST_AUTH_URL", settings.st_auth_url)):
        try:
            requests.get(url, timeout=TIMEOUT)
        except requests.RequestException:
            raise UserError(
                f"{url} does not answer: check the internet connection, a proxy or firewall, and {name} in .env."
            ) from None
    return f"{settings.st_api_url} and {settings.st_auth_url} answer"


def check_sign_in(settings: Settings) -> str:
    """Get a token, and make one call with it; a missing scope does not matter here."""
    try:
        Client(settings, patience=0).get(ENTITIES["business_units"].path, {"pageSize": 1})
    except NotPermitted:
        pass
    except RequestFailed as error:
        raise UserError(f"ServiceTitan does not work now: {error}. Try again in a few minutes.") from None
    return f"tenant {settings.st_tenant_id}"


def check_scopes(settings: Settings) -> str:
    """Make one small call to every endpoint that the ingest reads."""
    client = Client(settings, patience=0)

    def call(path: str, params: dict[str, Any]) -> Exception | None:
        try:
            client.get(path, params)
        except (RequestFailed, UserError) as error:
            return error
        return None

    today = datetime.now(UTC).date().isoformat()
    entities = list_entities(settings).values()
    lists = [entity for entity in entities if not entity.is_feed]
    feeds = [entity for entity in entities if entity.is_feed or entity.incremental == "feed"]
    calls: list[tuple[Entity, str, dict[str, Any]]] = [
        *((entity, entity.path, dict(entity.everything) | {"pageSize": 1}) for entity in lists),
        *((entity, entity.feed_path, {"from": today}) for entity in feeds),
    ]
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(call, [path for _, path, _ in calls], [params for _, _, params in calls]))
    tried = [(entity, error) for (entity, _, _), error in zip(calls, errors, strict=True)]
    refused = [entity for entity, error in tried if isinstance(error, NotPermitted)]
    if len(refused) == len(calls):
        raise UserError(
            "ServiceTitan refuses every endpoint (403): check ST_TENANT_ID in .env, and that the API application is "
            "connected to that tenant (Settings > Integrations > API Application Access)."
        )
    names = "; ".join(dict.fromkeys(map(_name_scope, refused)))
    how = (
        f"not permitted (403): {names}. At developer.servicetitan.io > My Apps > Edit grant the app View on them; then "
        "accept its new version in ServiceTitan, Settings > Integrations > API Application Access."
    )
    if not all(entity.optional for entity in refused):
        raise UserError(how)
    missed = [error for entity, error in tried if entity.optional and isinstance(error, Unavailable)]
    failed = next((error for error in errors if error and error not in missed), None)
    if failed:
        raise UserError(f"{failed}. Try again in a few minutes.")
    if missed:
        raise Note(f"{how if refused else f'{missed[0]}.'} Until then a night builds the figures without them.")
    return f"all {len(calls)} endpoints can be read"


def _name_scope(entity: Entity) -> str:
    """Return the developer portal's name for the scope of an endpoint.

    >>> _name_scope(ENTITIES["payroll"])
    'Payroll > Gross Pay Items'
    """
    module = entity.path.partition("/")[0]
    return f"{_MODULES.get(module, module.title())} > {entity.resource.replace('-', ' ').title()}"


# --- the warehouse ------------------------------------------------------------------------------------------------


def check_warehouse(settings: Settings) -> str:
    """Check that the DuckDB file can be opened and written; do not create it."""
    if not settings.warehouse.exists():
        return f"the first run creates {settings.warehouse}; for BigQuery set BQ_PROJECT in .env"
    _write_test_table(settings)
    return f"{settings.warehouse}, {settings.warehouse.stat().st_size / 1e6:,.0f} MB"


def check_tables(settings: Settings) -> str:
    """Create the missing datasets, as a run does, and create and drop a table in the scratch dataset."""
    with _explain_errors(settings, "roles/bigquery.dataEditor"):
        _write_test_table(settings)
    return "can be created, written and dropped"


def _write_test_table(settings: Settings) -> None:
    with connect(settings, wait=1) as warehouse:
        warehouse.execute(
            "CREATE OR REPLACE TABLE st_stage_v2.doctor AS SELECT 1 AS works", "DROP TABLE st_stage_v2.doctor"
        )


def check_google_credentials(settings: Settings) -> str:
    """Check that Google accepts the Application Default Credentials; the emulator needs none."""
    if settings.bigquery_emulator_host:
        return f"none needed: {settings.bigquery_emulator_host} is an emulator (BIGQUERY_EMULATOR_HOST)"
    how = (
        "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the key file of a "
        "service account; in the cloud, give the job a service account."
    )
    try:
        _load_credentials().refresh(Request())
    except DefaultCredentialsError:
        raise UserError(f"Google credentials are missing. {how}") from None
    except GoogleAuthError:
        raise UserError(f"Google refuses the credentials: they expired or were revoked. {how}") from None
    return f"those of {_find_account(settings) or 'your own account'}"


def check_bigquery(settings: Settings) -> str:
    """Run a query: the project exists, BigQuery is enabled, and the account may start jobs."""
    with _explain_errors(settings, "roles/bigquery.jobUser"), _open_client(settings) as client:
        client.query_and_wait("SELECT 1", api_timeout=TIMEOUT, wait_timeout=TIMEOUT, retry=None, job_retry=None)
    return f"queries run in project {settings.bq_project}, location {settings.bq_location}"


def check_datasets(settings: Settings) -> str:
    """Check that existing datasets are in the location of the settings: a query cannot read two locations."""
    existing = {}
    with _explain_errors(settings, "roles/bigquery.dataEditor"), _open_client(settings) as client:
        names = [map_name(name, settings.datasets) for name in DATASETS]
        for name in names:
            with suppress(exceptions.NotFound):
                existing[name] = client.get_dataset(name, retry=None, timeout=TIMEOUT).location
    for name, location in existing.items():
        if location.upper() != settings.bq_location.upper():
            raise UserError(
                f"{name} is in {location}, not in {settings.bq_location}: set BQ_LOCATION={location} in .env."
            )
    missing = [name for name in names if name not in existing]
    found = f"{len(existing)} of {len(names)} exist"
    return f"{found}; the next check creates {', '.join(missing)}" if missing else found


@contextmanager
def _explain_errors(settings: Settings, role: str) -> Iterator[None]:
    """Turn Google's errors in the block into UserError with what to do, such as granting `role` to the account."""
    project = settings.bq_project
    try:
        yield
    except exceptions.Forbidden as error:
        if "has not been used" in error.message or "is disabled" in error.message:
            raise UserError(f"Run `gcloud services enable bigquery.googleapis.com --project={project}`.") from None
        account = _find_account(settings)
        kind = "serviceAccount" if account.endswith("gserviceaccount.com") else "user"
        raise UserError(
            f"{error.message} Ask an owner of the project to run `gcloud projects add-iam-policy-binding {project} "
            f"--member={kind}:{account or 'ACCOUNT'} --role={role}`."
        ) from None
    except (exceptions.NotFound, exceptions.BadRequest) as error:
        raise UserError(
            f"Google has no project {project} with BigQuery in {settings.bq_location}: check BQ_PROJECT and "
            f"BQ_LOCATION in .env ({error.message})."
        ) from None
    except (exceptions.GoogleAPICallError, requests.RequestException, TimeoutError):
        raise UserError("BigQuery does not answer: check the internet connection, and try again in a minute.") from None


def _open_client(settings: Settings) -> bigquery.Client:
    host = settings.bigquery_emulator_host
    return bigquery.Client(
        settings.bq_project,
        AnonymousCredentials() if host else _load_credentials(),
        location=settings.bq_location,
        client_options={"api_endpoint": host} if host else None,
    )


def _load_credentials() -> Credentials:
    return google.auth.default(scopes=_SCOPES)[0]


def _find_account(settings: Settings) -> str:
    """Return the account of the credentials; "" if they do not name it, as those of a person often do not."""
    if settings.bigquery_emulator_host:
        return ""
    credentials = _load_credentials()
    with suppress(GoogleAuthError):
        credentials.refresh(Request())  # in the cloud, the account has no name before
    return getattr(credentials, "service_account_email", "") or getattr(credentials, "account", "")
