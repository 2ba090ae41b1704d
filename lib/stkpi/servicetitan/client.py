"""The ServiceTitan v2 API: a token, a rate limit, retries, pages and export feeds.

Facts from the published description: client-credentials tokens live 900 s and new ones are throttled; 60 calls a second
per application and tenant; lists answer `{page, pageSize, hasMore, totalCount, data}`, feeds `{hasMore, continueFrom,
data}`, errors a problem-JSON whose title says "Try again in N seconds." on 429.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
import pybreaker
import requests
import tenacity
from pyrate_limiter import Duration, Limiter, Rate
from requests.adapters import HTTPAdapter

from stkpi import log
from stkpi.errors import UserError
from stkpi.settings import Settings

CALLS_PER_SECOND = 55  # of 60 allowed: the server's second does not begin when ours does
PAGE_SIZE = 2_500  # half of the maximum: the server gives up a request after 100 s
MAX_PAGE_SIZE = 5_000
REPORT_PAGE_SIZE = 25_000  # the maximum: each page of a report counts as one of its runs
REPORT_SECONDS = 60  # between two runs of one report
MAX_PAGES = 20_000
TIMEOUT = (10, 110)  # seconds to connect, to read
ATTEMPTS = 6
TOKENS = 3  # with which a request is tried before a 401 is believed
BACKOFF = 0.5  # seconds of the first wait between tries; it doubles, with jitter, up to 30
LONGEST_WAIT = 120  # seconds; a longer Retry-After fails the window, which the next run resumes
_TOKEN_MARGIN = 60  # seconds before its end at which a token is renewed
_TRY_AGAIN = re.compile(r"try again in (\d+) second", re.IGNORECASE)
_REPORTS = "reporting/v2/tenant/{tenant}/report-category"
_RETRYABLE_STATUS = {408, 409, 429, 500, 502, 503, 504}


class RequestFailed(Exception):
    """A request that did not succeed after all retries: the window fails, other entities go on."""


class NotPermitted(RequestFailed):
    """The API application lacks the scope for an endpoint, or the tenant is not its own."""


class _Retryable(Exception):
    """A try that may succeed later; `wait` is the number of seconds the server asked for."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Page:
    """One answer of a list or feed. `total` only where it was asked for; `continue_from` only for feeds."""

    rows: list[dict[str, Any]]
    has_more: bool
    total: int | None = None
    continue_from: str | None = None


def _alive(error: Exception) -> bool:
    """Whether the endpoint works all the same: it refused for good, or asked to wait."""
    return not isinstance(error, _Retryable) or error.wait > 0


def requested_wait(headers: Any, title: str, now: datetime) -> float:
    """Seconds that a 429 or 503 asks to wait: Retry-After as seconds or as an HTTP date, else the title, else 0."""
    after = (headers.get("Retry-After") or "").strip()
    if after.isdigit():
        return float(after)
    if after:
        try:
            return max(0.0, (parsedate_to_datetime(after) - now).total_seconds())
        except (TypeError, ValueError):
            pass  # neither form: fall through to the title
    match = _TRY_AGAIN.search(title)
    return float(match.group(1)) if match else 0.0


def read_page(body: Any) -> Page:
    """A list or feed answer as a `Page`. Raises _Retryable for an answer that can't be right.

    Seen in the field and survived: `hasMore` missing or as text, `totalCount` as text, `data: null` of an empty list.
    """
    if not isinstance(body, dict) or "data" not in body:
        raise _Retryable("the answer has no data")
    total = body.get("totalCount")
    total = int(total) if isinstance(total, int) or (isinstance(total, str) and total.isdigit()) else None
    rows = body["data"]
    more = body.get("hasMore")
    # Without hasMore the end is the first empty page.
    has_more = bool(rows) if more is None else str(more).lower() == "true"
    if rows is None and not has_more and not total:
        rows = []
    if not isinstance(rows, list) or (has_more and not rows):
        raise _Retryable("the answer promises rows and has none")
    return Page(rows, has_more, total, body.get("continueFrom"))


def _read_report(body: Any) -> tuple[Page, list[str]]:
    """A page of a report and the names of its fields, in the order of a row's values."""
    fields = body.get("fields") if isinstance(body, dict) else None
    if not fields:
        raise _Retryable("the answer has no fields")
    return read_page(body), [field["name"] for field in fields]


class Client:
    """A connection to one tenant, shared by all threads. Raises UserError where the settings lack a credential."""

    def __init__(self, settings: Settings) -> None:
        missing = [
            name.upper()
            for name in ("st_client_id", "st_client_secret", "st_app_key", "st_tenant_id")
            if not getattr(settings, name)
        ]
        if missing:
            raise UserError(
                f"{', '.join(missing)} missing: put the ServiceTitan credentials into .env (see .env.example), "
                "or leave ST_CLIENT_ID out and `make nightly` shows the sandbox company."
            )
        self._settings = settings
        self._secret = settings.st_client_secret.get_secret_value()
        self._app_key = settings.st_app_key.get_secret_value()
        log.hide(self._secret, self._app_key)
        self._session = requests.Session()
        self._session.mount(settings.st_api_url, HTTPAdapter(pool_maxsize=16))
        self._limiter = Limiter(Rate(CALLS_PER_SECOND, Duration.SECOND))
        self._breakers: dict[str, pybreaker.CircuitBreaker] = defaultdict(
            lambda: pybreaker.CircuitBreaker(fail_max=2 * ATTEMPTS, reset_timeout=60, exclude=[_alive])
        )
        self._lock = threading.Lock()
        self._token: tuple[str, float] = ("", 0.0)  # and the monotonic second at which it is renewed
        self._waits = tenacity.wait_random_exponential(multiplier=BACKOFF, max=30)

    # --- requests ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """One cheap call. Raises UserError if the credentials are refused or the API cannot be reached."""
        try:
            self.get("settings/v2/tenant/{tenant}/business-units", {"pageSize": 1})
        except RequestFailed as error:
            raise UserError(f"ServiceTitan cannot be used now: {error}. Check ST_API_URL and ST_AUTH_URL.") from error

    def get(self, path: str, params: dict[str, Any]) -> Page:
        """GET one page. `path` as in the registry, with `{tenant}`. Raises RequestFailed when all tries are used up."""
        return self._persist(lambda: read_page(self._send("GET", path, params)), path)

    def pages(self, path: str, params: dict[str, Any], page_size: int = PAGE_SIZE) -> Iterator[Page]:
        """The pages of a list, the first one with its totalCount."""
        for number in range(1, MAX_PAGES + 1):
            total = {"includeTotal": "true"} if number == 1 else {}
            page = self.get(path, {**params, **total, "page": number, "pageSize": page_size})
            yield page
            if not page.has_more:
                return
        raise RequestFailed(f"{path} has more than {MAX_PAGES} pages: read a shorter window")

    def feed(self, path: str, start: str) -> Iterator[Page]:
        """The pages of an export feed from a continuation token or a day such as 2025-08-18, to its present end."""
        token = start
        for _ in range(MAX_PAGES):
            page = self.get(path, {"from": token})
            yield page
            if not page.has_more:
                return
            if page.continue_from in (None, "", token):
                raise RequestFailed(f"{path} promises more rows and does not say from where")
            token = page.continue_from
        raise RequestFailed(f"{path} has more than {MAX_PAGES} pages")

    def total(self, path: str, params: dict[str, Any]) -> int:
        """The totalCount of a list. Raises RequestFailed where the server does not give it."""
        page = self.get(path, {**params, "includeTotal": "true", "page": 1, "pageSize": 1})
        if page.total is None:
            raise RequestFailed(f"{path} does not say how many rows it has")
        return page.total

    def describe_report(self, category: str, report: str) -> dict[str, Any]:
        """What a saved report is called, which `parameters` it takes and which `fields` (name, label) it gives.

        Its owner can change all of them at any time. Raises RequestFailed where there is no such report.
        """
        path = f"{_REPORTS}/{category}/reports/{report}"
        return self._persist(lambda: self._send("GET", path, {}), path)

    def report(self, category: str, report: str, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows of a saved report, each by field name, as its fields are now.

        A second run within the minute waits for its end; so does every further page of 25,000 rows. Raises
        RequestFailed where the report or a parameter does not exist.
        """
        path = f"{_REPORTS}/{category}/reports/{report}/data"
        body = {"parameters": [{"name": name, "value": value} for name, value in parameters.items()]}
        params = {"page": 1, "pageSize": REPORT_PAGE_SIZE}
        while True:
            page, names = self._persist(lambda: _read_report(self._send("POST", path, params, body)), path)
            for row in page.rows:
                yield dict(zip(names, row, strict=True))
            if not page.has_more:
                return
            params["page"] += 1

    def _persist(self, attempt: Any, path: str) -> Any:
        """Call `attempt` until it succeeds, with exponential back-off and jitter, or as long as the server asks."""
        breaker = self._breakers[path]

        def wait(state: tenacity.RetryCallState) -> float:
            return max(self._waits(state), state.outcome.exception().wait)

        def useless(state: tenacity.RetryCallState) -> bool:
            return state.attempt_number >= ATTEMPTS or state.outcome.exception().wait > LONGEST_WAIT

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Retryable), wait=wait, stop=useless, reraise=True
        )
        try:
            return retrying(breaker.call, attempt)
        except pybreaker.CircuitBreakerError:
            raise RequestFailed(f"{path} keeps failing and is left alone for a minute") from None
        except _Retryable as error:
            raise RequestFailed(f"{path}: {log.redact(str(error))}") from None

    def _send(self, method: str, path: str, params: dict[str, Any], body: Any = None) -> Any:
        """One try. A 401 gets a new token; what may heal raises _Retryable, what cannot raises RequestFailed."""
        url = f"{self._settings.st_api_url.rstrip('/')}/{path.format(tenant=self._settings.st_tenant_id)}"
        started = time.perf_counter()
        for _ in range(TOKENS):
            token = self._access_token()
            reply = self._call(method, url, token, params, body)
            if reply.status_code != requests.codes.unauthorized:
                break
            self._forget(token)
        seconds = round(time.perf_counter() - started, 3)
        log.event(
            "page", path=path, status=reply.status_code, bytes=len(reply.content), seconds=seconds, **_plain(params)
        )
        if reply.status_code != requests.codes.ok:
            raise _refusal(reply, path)
        return _json(reply)

    def _call(self, method: str, url: str, token: str, params: dict[str, Any], body: Any) -> requests.Response:
        self._limiter.try_acquire("calls")
        headers = {"Authorization": f"Bearer {token}", "ST-App-Key": self._app_key, "Accept-Encoding": "gzip"}
        try:
            return self._session.request(method, url, params=params, json=body, headers=headers, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise _Retryable(_cause(error)) from None

    # --- the token --------------------------------------------------------------------------------------------------

    def _access_token(self) -> str:
        with self._lock:
            token, renewal = self._token
            if not token or time.monotonic() >= renewal:
                token, seconds = self._new_token()
                self._token = (token, time.monotonic() + max(seconds - _TOKEN_MARGIN, seconds / 2))
            return token

    def _forget(self, token: str) -> None:
        with self._lock:  # another thread may have renewed it meanwhile
            if self._token[0] == token:
                self._token = ("", 0.0)

    def _new_token(self) -> tuple[str, float]:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.st_client_id,
            "client_secret": self._secret,
        }
        try:
            reply = self._session.post(self._settings.st_auth_url, data=form, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise _Retryable(f"the sign-in server does not answer ({_cause(error)})") from None
        if reply.status_code in (requests.codes.bad_request, requests.codes.unauthorized):
            raise UserError(
                "ServiceTitan refuses these credentials: check ST_CLIENT_ID and ST_CLIENT_SECRET in .env "
                "(Settings > Integrations > API Application Access in ServiceTitan)."
            )
        if reply.status_code != requests.codes.ok:
            raise _Retryable(f"the sign-in server answers {reply.status_code}", _wait(reply))
        body = _json(reply)
        token = body.get("access_token")
        if not token:
            raise _Retryable("the sign-in server gives no token")
        log.hide(token)
        return token, float(body.get("expires_in") or 900)


def _json(reply: requests.Response) -> Any:
    try:
        return orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        pass
    try:  # a bare NaN is no JSON, but must not cost the page it is on: as a text it goes to quarantine with its row
        return json.loads(reply.content, parse_constant=str)
    except ValueError:
        kind = reply.headers.get("Content-Type", "no content type")
        raise _Retryable(f"the answer is not JSON ({kind}, {len(reply.content)} bytes)") from None


def _title(reply: requests.Response) -> str:
    try:
        return str(orjson.loads(reply.content).get("title") or "")
    except (orjson.JSONDecodeError, AttributeError):  # HTML of a gateway
        return ""


def _wait(reply: requests.Response) -> float:
    return requested_wait(reply.headers, _title(reply), datetime.now(UTC))


def _refusal(reply: requests.Response, path: str) -> Exception:
    status, title = reply.status_code, log.redact(_title(reply))[:200]
    if status in _RETRYABLE_STATUS or status >= requests.codes.server_error:
        # A report that ran within the last minute is refused as a conflict, and need not say for how long.
        wait = _wait(reply) or (REPORT_SECONDS if status == requests.codes.conflict else 0)
        return _Retryable(f"ServiceTitan answers {status} {title}".strip(), wait)
    if status == requests.codes.unauthorized:
        return UserError("ServiceTitan refuses the app key or the token: check ST_APP_KEY and ST_TENANT_ID in .env.")
    if status == requests.codes.forbidden:
        return NotPermitted(f"{path}: not permitted (403); give the API application the scope for it in ServiceTitan")
    return RequestFailed(f"{path}: ServiceTitan answers {status} {title}".strip())


def _cause(error: requests.RequestException) -> str:
    """What happened, without the URL: the exception's own text repeats it with all parameters."""
    match error:
        case requests.Timeout():
            return "no answer in time"
        case requests.ConnectionError():
            return "no connection"
        case _:
            return f"the answer broke off ({type(error).__name__})"


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters under names that cannot collide with the log line's own."""
    return {f"param_{name}": value for name, value in params.items()}
