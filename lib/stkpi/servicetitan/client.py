"""The ServiceTitan v2 API: a token, a rate limit, retries, pages, export feeds and saved reports.

Facts from ServiceTitan's published API description: client-credentials tokens live 900 s, and requests for new ones are
throttled; 60 calls a second per application and tenant; lists answer `{page, pageSize, hasMore, totalCount, data}`,
feeds `{hasMore, continueFrom, data}`, errors a problem-JSON whose title says "Try again in N seconds." on 429.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import orjson
import requests
import tenacity
from pyrate_limiter import Duration, Limiter, Rate
from tqdm import tqdm

from stkpi import log
from stkpi.deadline import limit_answers
from stkpi.errors import UserError
from stkpi.settings import Settings

T = TypeVar("T")

CALLS_PER_SECOND = 55  # of the 60 that are allowed: the server's second does not begin when ours does
PAGE_SIZE = 2_500  # half of the maximum: the server aborts a request after 100 s
MAX_PAGE_SIZE = 5_000
REPORT_PAGE_SIZE = 25_000  # the maximum: each page of a report counts against its limit of one call a minute
MAX_PAGES = 20_000
ANSWER_SECONDS = 120  # for a whole answer; the server itself gives up after 100
ATTEMPTS = 6  # of a call that the server answers wrongly
PATIENCE = 15 * 60  # seconds without an answer until a call gives up on a server that is away, or asks to wait
QUIET_SECONDS = 10  # of waiting without a word on the terminal
TOKENS = 3  # tokens to try before a 401 counts as an error
BACKOFF = 0.5  # seconds of the first wait between attempts; it doubles, with jitter, up to 30
_TOKEN_MARGIN = 60  # seconds before its expiry at which a token is renewed
_SAME_TIME = timedelta(minutes=5)  # clocks that differ by less are right
_LARGEST = 2.0**63  # beyond it a whole number is read as a fraction, as orjson does
_TRY_AGAIN = re.compile(r"try again in (\d+) second", re.IGNORECASE)
_REPORTING = "reporting/v2/tenant/{tenant}"
_REPORTS = f"{_REPORTING}/report-category"
_RETRYABLE_STATUS = {408, 409}
_AWAY_STATUS = {429, 502, 503, 504}  # the server is overloaded, or another one answers in its place


class RequestFailed(Exception):
    """A request that failed after all retries: its window fails, other entities go on."""


class Unavailable(RequestFailed):
    """The endpoint cannot be read at all with these credentials: HTTP 403, or 404 where the tenant does not have it."""


class NotPermitted(Unavailable):
    """HTTP 403: the API application lacks the scope for an endpoint, or has no access to the tenant."""


class PageRepeated(RequestFailed):
    """The server gave the same page twice: the walk is not whole."""


class _Retryable(Exception):
    """An attempt that failed but may succeed later.

    wait: the seconds that the server asked for
    away: there was no answer of the server's own, so that the number of attempts says nothing
    """

    def __init__(self, reason: str, wait: float = 0, *, away: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.away = wait, away


@dataclass(frozen=True)
class Page:
    """One answer of a list or feed. `total` only if it was asked for; `continue_from` only for feeds.

    moved: rows have other places now than when they were read (see `read_whole`)
    """

    rows: list[dict[str, Any]]
    has_more: bool
    total: int | None = None
    continue_from: str | None = None
    moved: bool = False


class _Absence:
    """How long there was no answer: on each path, and on any. What all threads wait for, they wait for once."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # by path, "" for all; monotonic seconds
        self._lock, self._told_at = threading.Lock(), 0.0

    def end(self, path: str) -> None:
        """Note an answer of the server's own."""
        with self._lock:
            self._since.pop(path, None)
            self._since.pop("", None)
            if self._told_at and not self._since:
                self._told_at = 0.0
                _print("ServiceTitan answers again.")

    def measure(self, path: str) -> float:
        """Note that there was no answer; return the seconds since the last one."""
        with self._lock:
            now = time.monotonic()
            return max(now - self._since.setdefault(key, now) for key in (path, ""))

    def tell(self, reason: str, seconds: float, wait: float, limit: float) -> None:
        """Say on the terminal that the client waits, once a minute."""
        with self._lock:
            now = time.monotonic()
            if seconds + wait >= QUIET_SECONDS and (not self._told_at or now - self._told_at >= 60):  # noqa: PLR2004
                self._told_at = now
                _print(f"Waiting for ServiceTitan, for up to {limit / 60:.0f} minutes: {reason}.")


def _print(text: str) -> None:
    tqdm.write(text)  # beside the bar of an ingest
    sys.stdout.flush()


def parse_requested_wait(headers: Mapping[str, str], title: str, now: datetime) -> float:
    """Return the seconds that a 429 or 503 asks to wait.

    From Retry-After (seconds, or an HTTP date compared with `now`), else from the title of the error; else 0.
    """
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


def parse_page(body: Any) -> Page:
    """Parse the answer of a list or feed. Raises _Retryable for an answer that cannot be right.

    Accepts what was seen in the field: `hasMore` missing or as text, `totalCount` as text, `data: null` for no rows.
    """
    if not isinstance(body, dict) or "data" not in body:
        raise _Retryable("the answer has no data")
    total = body.get("totalCount")
    total = int(total) if isinstance(total, int) or (isinstance(total, str) and total.isdigit()) else None
    rows = body["data"]
    more = body.get("hasMore")
    # Without hasMore, the first empty page is the end.
    has_more = bool(rows) if more is None else str(more).lower() == "true"
    if rows is None and not has_more and not total:
        rows = []
    if not isinstance(rows, list) or (has_more and not rows):
        raise _Retryable("the answer says that there are rows, but has none")
    return Page(rows, has_more, total, body.get("continueFrom"))


def _identify(row: Any) -> Any:
    """Return what stays of a row while it is edited: its id, if it has one."""
    return (isinstance(row, dict) and row.get("id")) or row


def _parse_report(body: Any) -> tuple[Page, list[str]]:
    """Parse a page of a report; also return the names of its fields, in the order of the values of a row."""
    fields = body.get("fields") if isinstance(body, dict) else None
    if not fields:
        raise _Retryable("the answer has no fields")
    return parse_page(body), [field["name"] for field in fields]


class Client:
    """A connection to one tenant, shared by all threads."""

    def __init__(
        self, settings: Settings, stopping: threading.Event | None = None, patience: float | None = None
    ) -> None:
        """Prepare a connection, without a call. Raises UserError if the settings lack a credential.

        stopping: ends every wait, and with it the call, once it is set
        patience: seconds to wait for a server that is away; default: PATIENCE
        """
        if not (settings.st_client_id and settings.st_client_secret and settings.st_app_key and settings.st_tenant_id):
            raise UserError(
                f"{', '.join(settings.missing_credentials)} missing: put the ServiceTitan credentials into .env (see "
                ".env.example), or leave all four out to use the sandbox, a made-up company."
            )
        self._settings = settings
        self.tenant_id = settings.st_tenant_id
        self._secret = settings.st_client_secret.get_secret_value()
        self._app_key = settings.st_app_key.get_secret_value()
        log.hide(self._secret, self._app_key)
        self._session = limit_answers(requests.Session(), ANSWER_SECONDS, pool_maxsize=16)
        self._limiter = Limiter(Rate(CALLS_PER_SECOND, Duration.SECOND))
        self._stopping = stopping or threading.Event()
        self._patience = PATIENCE if patience is None else patience
        self._absence = _Absence()
        self._lock = threading.Lock()
        self._ahead = timedelta()  # how far the server's clock is ahead of this machine's
        self._token: tuple[str, float] = ("", 0.0)  # the token, and the monotonic second at which to renew it
        self._report_calls: dict[str, float] = {}  # the monotonic second of the last call of each report
        self._backoff = tenacity.wait_random_exponential(multiplier=BACKOFF, max=30)

    def read_clock(self) -> datetime:
        """Return the time by the server's clock, as of its last answer; before the first one, by this machine's."""
        return datetime.now(UTC) + self._ahead

    # --- requests ---------------------------------------------------------------------------------------------------

    def check_access(self) -> None:
        """Make one cheap call. Raises UserError if the credentials are refused or the API cannot be reached."""
        try:
            self.get("settings/v2/tenant/{tenant}/business-units", {"pageSize": 1})
        except RequestFailed as error:
            raise UserError(f"ServiceTitan does not work now: {error}. Check ST_API_URL and ST_AUTH_URL.") from error

    def get(self, path: str, params: dict[str, Any]) -> Page:
        """GET one page. `path` is as in the registry, with `{tenant}`. Raises RequestFailed after the last attempt."""
        return self._with_retries(lambda: parse_page(self._send("GET", path, params)), path)

    def read_pages(self, path: str, params: dict[str, Any], page_size: int = PAGE_SIZE) -> Iterator[Page]:
        """Yield the pages of a list, the first one with its totalCount.

        Raises PageRepeated where the server ignores the page, RequestFailed.
        """
        before: list[Any] = []
        for number in range(1, MAX_PAGES + 1):
            total = {"includeTotal": "true"} if number == 1 else {}
            page = self.get(path, {**params, **total, "page": number, "pageSize": page_size})
            ids, more = [_identify(row) for row in page.rows], page.has_more
            if ids and ids == before:
                raise PageRepeated(f"{path} gives page {number - 1} again as page {number}")
            yield page
            del page  # its records are large, and the next ones come
            if not more:
                return
            before = ids
        raise RequestFailed(f"{path} has more than {MAX_PAGES} pages: read a shorter window")

    def read_whole(self, path: str, params: dict[str, Any], page_size: int = PAGE_SIZE) -> Iterator[Page]:
        """Yield the pages of a list, and after several an empty one with how many rows there are by then.

        It also says whether the last row of a page has moved since it was read: then a row may have slipped from one
        page to another unseen. One page is read at one moment. Raises PageRepeated, RequestFailed.
        """
        ends: list[tuple[int, Any]] = []
        place = 0
        for page in self.read_pages(path, params, page_size):
            rows = page.rows[:page_size]
            place += len(rows)
            ends.append((place, _identify(rows[-1]) if rows else None))
            del rows
            yield page
            del page
        last = None
        for place, row in ends[:-1]:
            last = self.get(path, {**params, "includeTotal": "true", "page": place, "pageSize": 1})
            if [_identify(each) for each in last.rows[:1]] != [row]:
                break
        else:
            row = None
        if last:
            yield Page([], False, last.total, moved=row is not None)

    def read_feed(self, path: str, start: str) -> Iterator[Page]:
        """Yield the pages of an export feed up to its present end. Raises RequestFailed.

        start: a continuation token, or a day such as 2025-08-18; empty for the beginning of the feed
        """
        token, seen = start, {start}
        for _ in range(MAX_PAGES):
            page = self.get(path, {"from": token} if token else {})
            more, following = page.has_more, page.continue_from
            yield page
            del page
            if not more:
                return
            if not following or following in seen:
                raise RequestFailed(f"{path} says that there are more rows, but not from where to continue")
            token = following
            seen.add(token)
        raise RequestFailed(f"{path} has more than {MAX_PAGES} pages")

    def count_rows(self, path: str, params: dict[str, Any]) -> int:
        """Return the totalCount of a list. Raises RequestFailed if the server does not give it."""
        page = self.get(path, {**params, "includeTotal": "true", "page": 1, "pageSize": 1})
        if page.total is None:
            raise RequestFailed(f"{path} does not say how many rows it has")
        return page.total

    def list_report_categories(self) -> list[dict[str, Any]]:
        """Return the categories of the saved reports: id (a text), name. Raises RequestFailed."""
        return self._read_rows(f"{_REPORTING}/report-categories")

    def list_reports(self, category: str) -> list[dict[str, Any]]:
        """Return the saved reports of a category: id, name, description. Raises RequestFailed."""
        return self._read_rows(f"{_REPORTS}/{category}/reports")

    def read_value_set(self, id: str) -> list[list[Any]]:
        """Return the values that a parameter of a report may have, as [value, name] each. Raises RequestFailed."""
        return self._read_rows(f"{_REPORTING}/dynamic-value-sets/{id}")

    def _read_rows(self, path: str) -> list[Any]:
        return [row for page in self.read_pages(path, {}) for row in page.rows]

    def describe_report(self, category: str, report: str) -> dict[str, Any]:
        """Return the name of a saved report, its `parameters`, and its `fields` (name, label).

        Its owner can change all of them at any time. Raises RequestFailed if there is no such report.
        """
        path = f"{_REPORTS}/{category}/reports/{report}"
        return self._with_retries(lambda: cast("dict[str, Any]", self._send("GET", path, {})), path)

    def run_report(self, category: str, report: str, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a saved report, each as {field name: value}.

        parameters: {name: value}, by the names that `describe_report` gives
        ServiceTitan allows about one call a minute per report (ST_REPORT_SECONDS): a second call, and each further page
        of 25,000 rows, waits.
        Raises RequestFailed if the report or a parameter does not exist.
        """
        path = f"{_REPORTS}/{category}/reports/{report}/data"
        body = {"parameters": [{"name": name, "value": value} for name, value in parameters.items()]}
        params = {"page": 1, "pageSize": REPORT_PAGE_SIZE}
        while True:
            page, names = self._with_retries(lambda: self._call_report(path, params, body), path)
            for row in page.rows:
                yield dict(zip(names, row, strict=True))
            if not page.has_more:
                return
            params["page"] += 1

    def _call_report(self, path: str, params: dict[str, Any], body: Any) -> tuple[Page, list[str]]:
        """Make one call of a report, as soon as it is allowed."""
        pause = self._report_calls.get(path, -math.inf) + self._settings.st_report_seconds - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        try:
            return _parse_report(self._send("POST", path, params, body))
        finally:
            self._report_calls[path] = time.monotonic()

    def _with_retries(self, attempt: Callable[[], T], path: str) -> T:
        """Call `attempt` until it succeeds, with exponential backoff and jitter, or the wait that the server asks for.

        A wrong answer is asked for again ATTEMPTS times; a server that is away is waited for until it has not answered
        for its patience. Raises RequestFailed then, or if the server asks for more, or when the run is to stop.
        """
        wrong = 0

        def call() -> T:
            nonlocal wrong
            try:
                result = attempt()
            except _Retryable as error:
                if not error.away:
                    self._absence.end(path)
                    wrong += 1
                raise
            except Exception:
                self._absence.end(path)
                raise
            self._absence.end(path)
            return result

        def choose_wait(state: tenacity.RetryCallState) -> float:
            return max(self._backoff(state), _get_error(state).wait)

        def should_stop(state: tenacity.RetryCallState) -> bool:
            error = _get_error(state)
            away = self._absence.measure(path) if error.away else 0.0
            if self._stopping.is_set() or wrong >= ATTEMPTS or away + error.wait > self._patience:
                return True
            if error.away:
                self._absence.tell(log.redact(str(error)), away, error.wait, self._patience)
            return False

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Retryable),
            wait=choose_wait,
            stop=should_stop,
            sleep=tenacity.sleep_using_event(self._stopping),
            reraise=True,
        )
        try:
            return retrying(call)
        except _Retryable as error:
            raise RequestFailed(f"{path}: {log.redact(str(error))}") from None

    def _send(self, method: str, path: str, params: dict[str, Any], body: Any = None) -> Any:
        """Make one attempt; a 401 gets a new token. Temporary errors raise _Retryable, lasting ones RequestFailed."""
        url = f"{self._settings.st_api_url.rstrip('/')}/{path.format(tenant=self.tenant_id)}"
        started = time.perf_counter()
        for _ in range(TOKENS):
            token = self._get_token()
            reply = self._request(method, url, token, params, body)
            if reply.status_code != requests.codes.unauthorized:
                break
            self._discard_token(token)
        self._note_clock(reply)
        seconds = round(time.perf_counter() - started, 3)
        log.write_event(
            "page",
            path=path,
            status=reply.status_code,
            bytes=len(reply.content),
            seconds=seconds,
            **_prefix_names(params),
        )
        if reply.status_code != requests.codes.ok:
            raise _make_error(reply, path, self._settings.st_report_seconds)
        return _parse_json(reply)

    def _request(self, method: str, url: str, token: str, params: dict[str, Any], body: Any) -> requests.Response:
        self._limiter.try_acquire("calls")
        headers = {"Authorization": f"Bearer {token}", "ST-App-Key": self._app_key, "Accept-Encoding": "gzip"}
        try:
            return self._session.request(method, url, params=params, json=body, headers=headers, allow_redirects=False)
        except requests.RequestException as error:
            raise _Retryable(_describe_cause(error), away=True) from None

    def _note_clock(self, reply: requests.Response) -> None:
        """Note the server's time, which its Date header has in whole seconds."""
        try:
            ahead = parsedate_to_datetime(reply.headers["Date"]) - datetime.now(UTC)
        except (KeyError, TypeError, ValueError):
            return
        self._ahead = ahead if abs(ahead) > _SAME_TIME else timedelta()

    # --- the token --------------------------------------------------------------------------------------------------

    def _get_token(self) -> str:
        with self._lock:
            token, renewal = self._token
            if not token or time.monotonic() >= renewal:
                token, seconds = self._request_token()
                self._token = (token, time.monotonic() + max(seconds - _TOKEN_MARGIN, seconds / 2))
            return token

    def _discard_token(self, token: str) -> None:
        with self._lock:  # another thread may have renewed it in the meantime
            if self._token[0] == token:
                self._token = ("", 0.0)

    def _request_token(self) -> tuple[str, float]:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.st_client_id,
            "client_secret": self._secret,
        }
        try:
            reply = self._session.post(self._settings.st_auth_url, data=form, allow_redirects=False)
        except requests.RequestException as error:
            raise _Retryable(f"the sign-in server does not answer ({_describe_cause(error)})", away=True) from None
        if reply.status_code in (requests.codes.bad_request, requests.codes.unauthorized):
            raise UserError(
                "ServiceTitan refuses these credentials: check ST_CLIENT_ID and ST_CLIENT_SECRET in .env "
                "(Settings > Integrations > API Application Access in ServiceTitan)."
            )
        if reply.is_redirect:
            raise _refuse_redirect(reply, "ST_AUTH_URL")
        if reply.status_code != requests.codes.ok:
            away = reply.status_code in _AWAY_STATUS
            raise _Retryable(f"the sign-in server answers {reply.status_code}", _read_wait(reply), away=away)
        body = _parse_json(reply)
        token = body.get("access_token") if isinstance(body, dict) else None
        if not token:
            raise _Retryable("the sign-in server sent no token")
        log.hide(token)
        return token, float(body.get("expires_in") or 900)


def _get_error(state: tenacity.RetryCallState) -> _Retryable:
    """Return the error of the attempt that is to be repeated."""
    return cast("_Retryable", state.outcome.exception() if state.outcome else None)


def _refuse_redirect(reply: requests.Response, setting: str) -> UserError:
    """Make the error for a redirect, which is never followed: the keys would go to whatever server it names."""
    where = urlsplit(reply.headers.get("Location", "")).hostname or "another address"
    return UserError(
        f"The server sends us on to {where}, which does not get your keys: if that is ServiceTitan, set "
        f"{setting} in .env to it."
    )


def _parse_json(reply: requests.Response) -> Any:
    try:
        return orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        pass
    try:  # what no JSON can hold must not fail its whole page: NaN and 1e400 become text, and their row is judged by it
        return json.loads(reply.content, parse_constant=str, parse_float=_parse_number, parse_int=_parse_number)
    except (ValueError, RecursionError):
        kind = reply.headers.get("Content-Type", "no content type")
        raise _Retryable(f"the answer is not JSON ({kind}, {len(reply.content)} bytes)") from None


def _parse_number(text: str) -> int | float | str:
    """Return the number that a text of JSON means, or the text itself if it is beyond a double."""
    number = float(text)
    if not math.isfinite(number):
        return text
    return number if not text.lstrip("-").isdigit() or abs(number) >= _LARGEST else int(text)


def _read_title(reply: requests.Response) -> str:
    try:
        return str(orjson.loads(reply.content).get("title") or "")
    except (orjson.JSONDecodeError, AttributeError):  # the HTML page of a gateway
        return ""


def _read_wait(reply: requests.Response) -> float:
    return parse_requested_wait(reply.headers, _read_title(reply), datetime.now(UTC))


def _make_error(reply: requests.Response, path: str, report_seconds: float) -> Exception:
    """Make the error for an answer that is not 200: temporary, wrong credentials, not permitted, or lasting."""
    status, title = reply.status_code, log.redact(_read_title(reply))[:200]
    if reply.is_redirect:
        return _refuse_redirect(reply, "ST_API_URL")
    if status in _RETRYABLE_STATUS | _AWAY_STATUS or status >= requests.codes.server_error:
        # A report that was called within the last minute is refused with 409, which need not say how long to wait.
        wait = _read_wait(reply) or (report_seconds if status == requests.codes.conflict else 0)
        return _Retryable(f"ServiceTitan answers {status} {title}".strip(), wait, away=status in _AWAY_STATUS)
    if status == requests.codes.unauthorized:
        return UserError("ServiceTitan refuses the app key or the token: check ST_APP_KEY and ST_TENANT_ID in .env.")
    if status == requests.codes.forbidden:
        return NotPermitted(f"{path}: not permitted (403); grant the API application the scope for it in ServiceTitan")
    lasting = Unavailable if status == requests.codes.not_found else RequestFailed
    return lasting(f"{path}: ServiceTitan answers {status} {title}".strip())


def _describe_cause(error: requests.RequestException) -> str:
    """Say what happened, without the URL: the exception's own text repeats it with all parameters."""
    match error:
        case requests.Timeout():
            return "no whole answer in time"
        case requests.ConnectionError():
            return "no connection"
        case _:
            return f"the answer broke off ({type(error).__name__})"


def _prefix_names(params: dict[str, Any]) -> dict[str, Any]:
    """Prefix parameter names, so that they cannot collide with the log line's own."""
    return {f"param_{name}": value for name, value in params.items()}
