"""The ServiceTitan v2 API of a store, over HTTP, with the quirks that were observed in the live one.

`start` serves in a thread. The standard library's threading server is enough: reading a request costs it a fraction of
a millisecond, a page of 5,000 rows is one join of ready bytes, and compression releases the interpreter.
"""

import base64
import binascii
import os
import re
import secrets
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import orjson
from isal import igzip

from sandbox.companies import COMPANIES
from sandbox.faults import FAULTS, Order, Reply, Request, list_rows, parse_order, read_page
from sandbox.mutations import mutate_store
from sandbox.query import BadParameter, Params, parse_active, parse_moment, parse_value, select_rows
from sandbox.records import Record, export_call
from sandbox.reports import DATE_TYPE_SET, Report
from sandbox.resources import RESOURCES
from sandbox.store import Store, get_value
from sandbox.tenant import open_books

CLIENT_ID = "cid.sandbox"
CLIENT_SECRET = "cs1.sandbox-not-a-real-one"  # noqa: S105 - works nowhere but here
APP_KEY = "ak1.sandbox"

MAX_PAGE_SIZE = 5000
MAX_REPORT_PAGE_SIZE = 25_000
_TOKENS_A_MINUTE = 600
_LOG_LINES = 10_000
_SMALLEST_GZIP = 512
_REPORTS_CHANGED = "2025-08-01T13:13:02.9368539-07:00"
_VALUE_SETS = {"business-units": "business_units", "technicians": "technicians", "job-types": "job_types"}
_SET_FIELDS = [{"name": "Id", "label": "Id"}, {"name": "Name", "label": "Name"}]
_LISTS = {resource.list_path: name for name, resource in RESOURCES.items()}
_EXPORTS = {resource.export_path: name for name, resource in RESOURCES.items() if resource.export}
_EXPORTS["/sales/v2/tenant/{tenant}/estimates/export"] = "estimates"  # the description has a second path for it
# Beside the list in pages, the description has one that answers a bare array of its rows.
_ARRAYS = {path.removesuffix("/paginated"): name for path, name in _LISTS.items() if path.endswith("/paginated")}
# Whose records the export gives in another shape than the list.
_EXPORTED: dict[str, Callable[[Record], Record]] = {"calls": export_call}
_API_PATH = re.compile(r"/(?P<module>[\w-]+)/v\d/tenant/(?P<tenant>[^/]+)/(?P<rest>.+)")


class Limiter:
    """At most `calls` in any `seconds`; a refused call does not count."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.seconds = seconds
        self.times: deque[float] = deque(maxlen=calls)
        self.lock = threading.Lock()

    def wait(self) -> float:
        """Return the seconds until a call is allowed again; 0 if this one is."""
        with self.lock:
            now = time.monotonic()
            if len(self.times) == self.times.maxlen and now - self.times[0] < self.seconds:
                return self.seconds - (now - self.times[0])
            self.times.append(now)
            return 0


def make_problem(status: int, title: str, errors: dict[str, list[str]] | None = None, **headers: str) -> Reply:
    """Make an error in the API's shape (RFC 7807)."""
    body = {"type": f"https://httpstatuses.io/{status}", "title": title, "status": status}
    body |= {"traceId": secrets.token_hex(16), "errors": errors or {}, "data": {}}
    return Reply(status, orjson.dumps(body), "application/problem+json", headers)


def _refuse_rate(wait: float) -> Reply:
    seconds = max(1, round(wait + 0.5))
    title = f"Rate limit is exceeded. Try again in {seconds} seconds."
    return make_problem(429, title, **{"Retry-After": str(seconds)})


def _answer_json(body: Any) -> Reply:
    return Reply(200, orjson.dumps(body))


def _read_paging(params: Params, default: int, largest: int) -> tuple[int, int, bool]:
    """Read page number, page size and whether the total is requested. Raises BadParameter."""
    text = {name: params[name][0] if params.get(name) else "" for name in ("page", "pageSize", "includeTotal")}
    page = parse_value("page", text["page"] or "1", "int")
    size = parse_value("pageSize", text["pageSize"] or str(default), "int")
    for name, value in (("page", page), ("pageSize", size)):
        if value < 1:
            raise BadParameter(name, str(value))
    return page, min(size, largest), parse_value("includeTotal", text["includeTotal"] or "false", "bool")


def _answer_page(
    items: list[Any], params: Params, default: int = 50, largest: int = MAX_PAGE_SIZE, **more: Any
) -> Reply:
    page, size, total = _read_paging(params, default, largest)
    body = {"page": page, "pageSize": size, "hasMore": page * size < len(items)}
    body |= {"totalCount": len(items) if total else None, "data": items[(page - 1) * size : page * size]}
    return _answer_json(body | more)


def _encode_position(resource: str, position: int) -> str:
    """Make a continuation token: the position in the feed, which never changes for one seed and its mutations."""
    return base64.urlsafe_b64encode(f"{resource}@{position}".encode()).decode().rstrip("=")


def _add_flags(record: bytes, names: tuple[str, ...], active: bool) -> bytes:
    """Add the flags to a record that only the export has: whether it is `active`, and others, which are false."""
    flags = {name: name == "active" and active for name in names}
    return record[:-1] + b"," + orjson.dumps(flags)[1:] if flags else record


def _decode_position(store: Store, resource: str, text: str) -> int:
    """Read the feed position of `from`, a token or a date. Raises BadParameter."""
    try:
        name, _, position = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("@")
    except (binascii.Error, UnicodeDecodeError):
        name = position = ""
    if name == resource and position.isdecimal():
        return int(position)
    return store.find_feed_start(resource, parse_moment("from", text))


@dataclass(frozen=True)
class Settings:
    """How the server behaves; times are in seconds. `seed` is that of the tenant, which mutations go on from."""

    seed: int = 1
    token_seconds: int = 900
    calls_per_second: int = 60
    report_seconds: float = 60
    export_page_size: int = 2500


class Sandbox:
    """A running API: `url`, the `environment` a client needs, its `store`, `log` and `faults`; `close` ends it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.company = COMPANIES[store.company]
        # Another seed is another tenant: its data must not mix with this one's.
        self.tenant_id = str(self.company.first_tenant_id + settings.seed)
        self.tokens: dict[str, float] = {}
        self.faults: list[Order] = []
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOG_LINES)
        self.lock = threading.RLock()
        self.calls = Limiter(settings.calls_per_second, 1)
        self.new_tokens = Limiter(_TOKENS_A_MINUTE, 60)
        self.report_calls: dict[int, Limiter] = {}
        # A walk through the pages repeats one selection; the version in the key makes a change visible.
        self.select = lru_cache(maxsize=16)(lambda resource, query, version: select_rows(store, resource, dict(query)))
        self.effects = FAULTS | {"expire_token": self._expire_token, "move_rows": self._move_rows}
        self.shuffles = np.random.default_rng(settings.seed)
        self.http: ThreadingHTTPServer
        store.settle()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a client talks to this server."""
        return {
            "ST_CLIENT_ID": CLIENT_ID,
            "ST_CLIENT_SECRET": CLIENT_SECRET,
            "ST_APP_KEY": APP_KEY,
            "ST_TENANT_ID": self.tenant_id,
            "ST_REPORT_SECONDS": f"{self.settings.report_seconds:g}",
            "ST_API_URL": self.url,
            "ST_AUTH_URL": f"{self.url}/connect/token",
            "TIME_ZONE": self.company.time_zone,
        }

    def close(self) -> None:
        """Stop listening."""
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request: Request) -> Reply:
        """Answer a request, with the faults that were ordered, and write a line to the log."""
        if request.path.startswith("/sandbox/"):
            return self._answer_control(request)
        start = time.perf_counter()
        line = {"method": request.method, "path": request.path, "params": dict(request.params)}
        proceed: Callable[[Request], Reply] = (
            self._answer_token if request.path == "/connect/token" else self._answer_api
        )
        with self.lock:
            due = [fault for fault in self.faults if fault.hits(request.path)]
        for fault in due:
            proceed = partial(self.effects[fault.fault], fault.args, proceed=proceed)
        try:
            reply = proceed(request)
        except BadParameter as error:
            reply = make_problem(400, "One or more validation errors occurred.", {error.name: [str(error)]})
        self.log.append(line | {"status": reply.status, "seconds": round(time.perf_counter() - start, 4)})
        return reply

    def _answer_control(self, request: Request) -> Reply:
        match request.method, request.path:
            case "POST", "/sandbox/faults":
                try:
                    ordered = parse_order(orjson.loads(request.body), self.effects)
                except ValueError as error:
                    return make_problem(400, str(error))
                with self.lock:
                    self.faults.append(ordered)
                return _answer_json({"faults": len(self.faults)})
            case "DELETE", "/sandbox/faults":
                with self.lock:
                    self.faults.clear()
                return _answer_json({"faults": 0})
            case "POST", "/sandbox/mutate":
                with self.lock:
                    mutate_store(self.store, self.settings.seed, orjson.loads(request.body)["step"])
                    self.store.settle()
                return _answer_json({})
            case "GET", "/sandbox/log":
                return _answer_json(list(self.log))
        return make_problem(404, "The sandbox has /sandbox/faults, /sandbox/mutate and /sandbox/log.")

    def _expire_token(self, args: dict[str, Any], request: Request, proceed: Callable[[Request], Reply]) -> Reply:
        self.tokens.clear()
        return proceed(request)

    def _move_rows(self, args: dict[str, Any], request: Request, proceed: Callable[[Request], Reply]) -> Reply:
        """Modify the first `rows` rows after their page was read, at `at`, so that later pages shift."""
        reply = proceed(request)
        page, path = read_page(reply), self._generalize(request.path)
        resource = _LISTS.get(path) or _EXPORTS.get(path)
        if page is None or resource is None:
            return reply
        key = RESOURCES[resource].id_path
        found = [get_value(row, key) for row in list_rows(page) if isinstance(row, dict)]
        ids = [each for each in found if isinstance(each, int)][: args.get("rows", 1)]
        with self.lock:
            moved = np.isin(self.store.column(resource, key), ids) & self.store.present(resource)
            for row in np.flatnonzero(moved).tolist():
                record = self.store.get(resource, row) | {"modifiedOn": args["at"]}
                self.store.replace(resource, row, record, datetime.fromisoformat(args["at"]))
            self.store.settle()
        return reply

    def _answer_token(self, request: Request) -> Reply:
        if request.method != "POST":
            return make_problem(405, "The token endpoint takes POST.")
        if wait := self.new_tokens.wait():
            return _refuse_rate(wait)
        form = {name: values[0] for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()}
        if form.get("grant_type") != "client_credentials":
            return Reply(400, orjson.dumps({"error": "unsupported_grant_type"}))
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return Reply(400, orjson.dumps({"error": "invalid_client"}))
        token = secrets.token_urlsafe(32)
        self.tokens[token] = time.monotonic() + self.settings.token_seconds
        body = {"access_token": token, "expires_in": self.settings.token_seconds, "token_type": "Bearer"}
        return _answer_json(body | {"scope": "tn.read"})

    def _refuse(self, request: Request) -> Reply | None:
        """Return the refusal of a request without a valid token and key or over the rate limit; else None."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self.tokens.get(token, 0) <= time.monotonic():
            return make_problem(401, "The access token is missing, unknown or expired.")
        if request.headers.get("st-app-key") != APP_KEY:
            return make_problem(401, "The application key is missing or unknown.")
        if wait := self.calls.wait():
            return _refuse_rate(wait)
        return None

    def _answer_api(self, request: Request) -> Reply:
        if refusal := self._refuse(request):
            return refusal
        parts = _API_PATH.fullmatch(request.path)
        if not parts:
            return make_problem(404, "Resource not found.")
        if parts["tenant"] != self.tenant_id:
            return make_problem(403, "The application has no access to this tenant.")
        module, rest = parts["module"], parts["rest"]
        if module == "reporting":
            return self._answer_reporting(request, rest.split("/"))
        path = self._generalize(request.path)
        for paths, answer in (
            (_LISTS, self._answer_list),
            (_EXPORTS, self._answer_export),
            (_ARRAYS, self._answer_array),
        ):
            if request.method == "GET" and path in paths:
                return answer(paths[path], request.params)
        return make_problem(404, "Resource not found.")

    def _generalize(self, path: str) -> str:
        """Return the path as the description has it."""
        return path.replace(f"/tenant/{self.tenant_id}/", "/tenant/{tenant}/")

    def _answer_array(self, resource: str, params: Params) -> Reply:
        page = self._answer_list(resource, params)
        return _answer_json(orjson.loads(page.body)["data"])

    def _answer_list(self, resource: str, params: Params) -> Reply:
        page, size, total = _read_paging(params, 50, MAX_PAGE_SIZE)
        paging = ("page", "pageSize", "includeTotal")
        query = tuple((name, tuple(values)) for name, values in sorted(params.items()) if name not in paging)
        with self.lock:
            rows = self.select(resource, query, tuple(map(self.store.version, RESOURCES)))
            count = len(rows)
            if resource == "payroll" and count > size:
                # Operators saw pages of gross pay repeat and miss rows at the same total: each request shuffles.
                rows = self.shuffles.permutation(rows)
            records = self.store.get_serialized(resource, rows[(page - 1) * size : page * size].tolist())
        more = b"true" if page * size < count else b"false"
        head = b'{"page":%d,"pageSize":%d,"hasMore":%b,"totalCount":%b,"data":[' % (
            page,
            size,
            more,
            b"%d" % count if total else b"null",
        )
        return Reply(200, head + b",".join(records) + b"]}")

    def _answer_export(self, resource: str, params: Params) -> Reply:
        start = params.get("from", [""])[0]
        parse_value("includeRecentChanges", (params.get("includeRecentChanges") or ["false"])[0] or "false", "bool")
        wanted = parse_active(params) if resource == "appointments" and "active" in params else None
        with self.lock:
            position, records, more = _decode_position(self.store, resource, start) if start else 0, [], True
            # A page that the filter leaves empty is skipped: clients take an empty page for the end.
            while more and not records:
                records, position, more = self.store.feed(resource, position, self.settings.export_page_size)
                if wanted is not None:
                    records = [r for r in records if orjson.loads(r[0])["active"] is wanted]
        reshape = _EXPORTED.get(resource)
        rows = [
            orjson.dumps(reshape(orjson.loads(record)) | ({} if active else {"active": False}))
            if reshape
            else _add_flags(record, RESOURCES[resource].export_flags, active)
            for record, active in records
        ]
        head = b'{"hasMore":%b,"continueFrom":"%b","data":[' % (
            b"true" if more else b"false",
            _encode_position(resource, position).encode(),
        )
        return Reply(200, head + b",".join(rows) + b"]}")

    def _answer_reporting(self, request: Request, parts: list[str]) -> Reply:
        reports = {(report.category, str(report.id)): report for report in self.company.reports}
        categories = list(dict.fromkeys(category for category, _ in reports))
        match request.method, parts:
            case "GET", ["report-categories"]:
                return _answer_page([{"id": name, "name": name} for name in categories], request.params)
            case "GET", ["dynamic-value-sets", name] if name in _VALUE_SETS or name == DATE_TYPE_SET:
                return _answer_page(self._list_values(name), request.params, fields=_SET_FIELDS)
            case "GET", ["report-category", category, "reports"] if category in categories:
                named = [report for report in reports.values() if report.category == category]
                listed = [{"id": r.id, "name": r.name, "description": r.description} for r in named]
                return _answer_page(listed, request.params)
            case "GET", ["report-category", category, "reports", number] if (category, number) in reports:
                return _describe_report(reports[category, number])
            case "POST", ["report-category", category, "reports", number, "data"] if (category, number) in reports:
                return self._answer_report_data(reports[category, number], request)
        return make_problem(404, "Resource not found.")

    def _list_values(self, name: str) -> list[list[Any]]:
        if name == DATE_TYPE_SET:
            return [list(each) for each in enumerate(self.company.date_types)]
        with self.lock:
            return [[row["id"], row["name"]] for row in self.store.rows(_VALUE_SETS[name])]

    def _answer_report_data(self, report: Report, request: Request) -> Reply:
        try:
            values = {item["name"]: item.get("value") for item in orjson.loads(request.body)["parameters"]}
        except (ValueError, TypeError, KeyError):
            return make_problem(400, "The body must be {parameters: [{name, value}]}.")
        known = {parameter["name"]: parameter for parameter in report.parameters}
        errors = {name: ["The report has no such parameter."] for name in values.keys() - known.keys()}
        for name, parameter in known.items():
            if values.get(name) is None:
                values.pop(name, None)
                if parameter["isRequired"]:
                    errors[name] = ["The parameter is required."]
            elif parameter["isArray"] != isinstance(values[name], list):
                errors[name] = ["An array is expected." if parameter["isArray"] else "A single value is expected."]
        if "DateType" in values and not errors:
            accepted = known["DateType"]["acceptValues"]
            try:
                choices = accepted["values"] or self._list_values(accepted["dynamicSetId"])
                values["DateType"] = dict(choices)[values["DateType"]]
            except (KeyError, TypeError):
                errors["DateType"] = [f"A value of the set {DATE_TYPE_SET} is expected."]
        if errors:
            return make_problem(400, "One or more validation errors occurred.", errors)
        _read_paging(request.params, 1000, MAX_REPORT_PAGE_SIZE)
        with self.lock:
            wait = self.report_calls.setdefault(report.id, Limiter(1, self.settings.report_seconds)).wait()
            if wait:
                return _refuse_rate(wait)
            try:
                rows = list(report.rows(open_books(self.store), values))
            except ValueError as error:
                return make_problem(400, str(error))
        fields = [{"name": f["name"], "label": f["label"]} for f in report.fields]
        # The live API counts no report's rows, whatever is requested.
        paging = {name: value for name, value in request.params.items() if name != "includeTotal"}
        return _answer_page(rows, paging, 1000, MAX_REPORT_PAGE_SIZE, fields=fields)


def _describe_report(report: Report) -> Reply:
    body = {"id": report.id, "name": report.name, "description": report.description, "modifiedOn": _REPORTS_CHANGED}
    return _answer_json(body | {"parameters": report.parameters, "fields": report.fields})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    sandbox: Sandbox

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        params = parse_qs(url.query, keep_blank_values=True)
        self._send(self.sandbox.answer(Request(self.command, unquote(url.path), params, headers, body)))

    do_GET = do_POST = do_DELETE = _serve

    def _send(self, reply: Reply) -> None:
        body = reply.body
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > _SMALLEST_GZIP:
            body = igzip.compress(body, compresslevel=0)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[: len(body) // 2] if reply.reset else body
        size = 1 if reply.pause else len(body) or 1
        for start in range(0, len(sent), size):
            time.sleep(reply.pause)
            self.wfile.write(sent[start : start + size])
        if reply.reset:
            # Closing with a linger of zero seconds sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing to stderr: GET /sandbox/log has it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hung up; show any other error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def start(store: Store, port: int = 0, **settings: float) -> Sandbox:
    """Serve a store on 127.0.0.1 in a thread and return the running sandbox; `settings` are those of Settings.

    `port` 0 takes any free one. Raises OSError when the port is in use.
    """
    sandbox = Sandbox(store, Settings(**settings))
    sandbox.http = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"sandbox": sandbox}))
    serve = partial(sandbox.http.serve_forever, poll_interval=0.05)  # how long `close` may take
    threading.Thread(target=serve, name="sandbox", daemon=True).start()
    return sandbox
