"""A proxy between the unmodified google client and the BigQuery emulator, which refuses what the real server would.

The emulator is lenient: no request is too large, no table has a streaming buffer, no quota ends. Each fault below
answers in Google's place, in the form that Google documents or that users' reports show; everything else goes through.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import sqlglot
from sqlglot import exp

MB = 1024 * 1024
REQUEST_LIMIT = 10 * MB  # https://cloud.google.com/bigquery/quotas: "Maximum request size"
ROW_LIMIT = 100 * MB  # the same page: "JSON: maximum row size"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_JOBS = re.compile(r"/projects/[^/]+/jobs/?$")
_JOB = re.compile(r"/projects/[^/]+/(?P<kind>jobs|queries)/(?P<job_id>[^/]+)$")


@dataclass(frozen=True)
class Request:
    """What the client asks. `job` is the resource of a jobs.insert or jobs.query, `rows` the NDJSON that it loads."""

    method: str
    path: str
    size: int
    job: dict[str, Any] = field(default_factory=dict, repr=False)
    rows: bytes = field(default=b"", repr=False)

    @property
    def statement(self) -> str:
        """The SQL of a query job, or an empty text."""
        return self.job.get("query") or self._configuration("query").get("query", "")

    @property
    def job_id(self) -> str:
        """The id that the client gave the job, or that it asks for; empty if none."""
        asked = _JOB.search(self.path)
        return asked["job_id"] if asked else self.job.get("jobReference", {}).get("jobId", "")

    @property
    def required(self) -> list[str]:
        """The REQUIRED columns of a load job's schema."""
        fields = self._configuration("load").get("schema", {}).get("fields", [])
        return [column["name"] for column in fields if column.get("mode") == "REQUIRED"]

    @property
    def submits(self) -> bool:
        """Whether a job starts with this request: jobs.insert with its data, if any, or jobs.query."""
        return self.method in ("POST", "PUT") and bool(self.statement or self.rows or "copy" in self.job)

    def _configuration(self, kind: str) -> dict[str, Any]:
        return self.job.get("configuration", {}).get(kind, {})


@dataclass(frozen=True)
class Reply:
    """An answer; `reset` cuts the connection instead of giving it."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=UTF-8"
    headers: tuple[tuple[str, str], ...] = ()
    reset: bool = False


@dataclass(frozen=True)
class JobError:
    """A job that was accepted and fails: what stands in its status."""

    reason: str
    message: str
    code: int = 400


Match = Callable[[Request], bool]
Proceed = Callable[[], Reply]


@dataclass
class Fault:
    """Answers the requests that `match`, `times` times (None: for ever), after the first `skip` of them.

    The answer is a reply, or the error of the job that the request starts.
    """

    match: Match
    answer: Callable[[Request, Proceed], Reply | JobError]
    times: int | None = None
    skip: int = 0
    met: int = 0

    def due(self, request: Request) -> bool:
        """Whether the fault strikes this request; counts it."""
        if self.times == 0 or not self.match(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        self.met += 1
        return True


# --- what the real server says ------------------------------------------------------------------------------------


def error(code: int, reason: str, message: str, status: str = "") -> Reply:
    """An error in the API's JSON (https://cloud.google.com/bigquery/docs/error-messages)."""
    proto = {"message": message, "domain": "global", "reason": reason}
    body = {"error": {"code": code, "message": message, "errors": [proto], "status": status}}
    return Reply(code, json.dumps(body).encode())


def too_large(limit: int = REQUEST_LIMIT, html: bool = True, times: int | None = None) -> Fault:
    """Requests over `limit` bytes: 413 as HTML from the front end, or 400 as JSON from the API behind it.

    https://github.com/googleapis/google-cloud-go/issues/2855 and googleapis/google-cloud-ruby/pull/31568 show both.
    """
    page = (
        b"<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error 413 (Request Entity Too Large)!!1"
        b"</title>\n  <p><b>413.</b> <ins>That's an error.</ins>\n  <p>Your client issued a request that was too large."
    )
    text = f"Request payload size exceeds the limit: {limit} bytes."
    refusal = Reply(413, page, "text/html; charset=UTF-8") if html else error(400, "badRequest", text)
    return Fault(lambda request: request.size > limit, lambda *_: refusal, times)


def row_too_large(limit: int = ROW_LIMIT) -> Fault:
    """A load job with a row over `limit` bytes fails as a whole (https://github.com/m-lab/etl/pull/1133 shows it)."""

    def answer(request: Request, _: Proceed) -> JobError:
        rows = request.rows.splitlines(keepends=True)
        place = next(place for place, row in enumerate(rows) if len(row) > limit)
        return JobError(
            "invalid",
            "Error while reading data, error message: JSON parsing error in row starting at position "
            f"{sum(map(len, rows[:place]))}: Row size is larger than: {limit}.",
        )

    return Fault(lambda request: any(len(row) > limit for row in request.rows.splitlines(keepends=True)), answer)


def null_in_required() -> Fault:
    """A load job with NULL, or nothing, in a REQUIRED column fails as a whole."""

    def absent(request: Request) -> str:
        if not request.required:
            return ""
        rows = (json.loads(row) for row in request.rows.splitlines() if row)
        return next((name for row in rows for name in request.required if row.get(name) is None), "")

    def answer(request: Request, _: Proceed) -> JobError:
        return JobError(
            "invalid",
            "Error while reading data, error message: JSON table encountered too many errors, giving up. Rows: 1; "
            f"errors: 1. Only optional fields can be set to NULL. Field: {absent(request)}; Value: NULL",
        )

    return Fault(lambda request: bool(absent(request)), answer)


def changes(table: str) -> Match:
    """Requests whose SQL changes rows of `table` (`dataset.name`) in place. INSERT does not."""
    verb = r"\b(?:UPDATE|MERGE(?:\s+INTO)?|DELETE(?:\s+FROM)?|TRUNCATE\s+TABLE)\s+"
    found = re.compile(rf"{verb}(?:[\w-]+\.)?{re.escape(table)}\b", re.IGNORECASE)
    return lambda request: bool(found.search(request.statement.replace("`", "")))


def _in_script(request: Request, message: str) -> str:
    """The message of a failed statement, as the script around it repeats it."""
    return f"Query error: {message} at [2:1]" if ";" in request.statement.rstrip().rstrip(";") else message


def streaming_buffer(table: str, times: int | None = None) -> Fault:
    """DML on rows that were streamed into `table` (`dataset.name`) within the last 30 minutes.

    https://cloud.google.com/bigquery/docs/data-manipulation-language, "Limitations".
    """
    text = f"UPDATE or DELETE statement over table {table} would affect rows in the streaming buffer, "
    return Fault(
        changes(table),
        lambda request, _: JobError("invalidQuery", _in_script(request, f"{text}which is not supported")),
        times,
    )


def wants_partition_filter(table: str, column: str) -> Fault:
    """Statements that read or change rows of `table` (`dataset.name`) without a bound on `column`, its partition's.

    https://cloud.google.com/bigquery/docs/querying-partitioned-tables, "Require a partition filter in queries". The
    emulator asks less: any condition on the column, anywhere in the statement, and none where rows are changed.
    """
    text = f"Cannot query over table '{table}' without a filter over column(s) '{column}' that can be used for "
    return Fault(
        lambda request: reads_unbounded(request.statement, table, column),
        lambda request, _: JobError("invalidQuery", _in_script(request, f"{text}partition elimination")),
    )


def reads_unbounded(sql: str, table: str, column: str) -> bool:
    """Whether a SELECT, UPDATE, DELETE or MERGE of a script names the table and does not compare the column itself."""
    if table.partition(".")[2] not in sql:  # spares reading all the others
        return False
    for statement in filter(None, sqlglot.parse(sql, dialect="bigquery")):
        for found in statement.find_all(exp.Table):
            reader = found.find_ancestor(exp.Select, exp.Update, exp.Delete, exp.Merge)
            if f"{found.db}.{found.name}" != table or reader is None:
                continue
            condition = reader.args.get("where") or reader.args.get("on")
            compared = condition.find_all(exp.Predicate) if condition else ()
            if not any(each.name == column for predicate in compared for each in predicate.find_all(exp.Column)):
                return True
    return False


def too_many_dml(table: str, times: int | None = None) -> Fault:
    """More than 20 mutating statements wait for `table` (`dataset.name`)."""
    text = f"Resources exceeded during query execution: Too many DML statements outstanding against table {table}, "
    return Fault(
        changes(table),
        lambda request, _: JobError("resourcesExceeded", _in_script(request, f"{text}limit is 20.")),
        times,
    )


def rate_limit(match: Match, times: int | None = None) -> Fault:
    """A short-term limit, which back-off heals (https://cloud.google.com/bigquery/docs/troubleshoot-quotas)."""
    text = "Exceeded rate limits: too many table update operations for this table."
    return Fault(match, lambda *_: error(403, "rateLimitExceeded", text), times)


def quota(match: Match, times: int | None = None) -> Fault:
    """A quota that is used up until tomorrow: trying again is of no use."""
    text = "Quota exceeded: Your table exceeded quota for imports or query appends per table."
    return Fault(match, lambda *_: error(403, "quotaExceeded", text), times)


def denied(match: Match, permission: str = "bigquery.jobs.create", project: str = "PROJECT") -> Fault:
    """The account lacks a permission."""
    text = f"Access Denied: Project {project}: User does not have {permission} permission in project {project}."
    return Fault(match, lambda *_: error(403, "accessDenied", text, "PERMISSION_DENIED"))


def too_many_requests(match: Match, times: int | None = None, skip: int = 0) -> Fault:
    """429 from the front end."""
    text = "Exceeded rate limits: too many api requests per user per method for this user_method."
    return Fault(match, lambda *_: error(429, "rateLimitExceeded", text, "RESOURCE_EXHAUSTED"), times, skip)


def polls(request: Request) -> bool:
    """Requests that ask how a job is: jobs.get and jobs.getQueryResults."""
    return request.method == "GET" and bool(_JOB.search(request.path))


def backend_error(match: Match = polls, times: int | None = None, skip: int = 0) -> Fault:
    """503: an error of the server's, which may have passed at the next try."""
    text = "Error encountered during execution. Retrying may solve the problem."
    return Fault(match, lambda *_: error(503, "backendError", text, "UNAVAILABLE"), times, skip)


def unfinished(times: int | None = None) -> Fault:
    """A job that is started and not done at once, as with Google nearly always and in the emulator never."""

    def answer(_: Request, proceed: Proceed) -> Reply:
        reply = proceed()
        job = json.loads(reply.body)
        job["status"] = {"state": "RUNNING"}
        return replace(reply, body=json.dumps(job).encode())

    return Fault(lambda request: request.submits and bool(request.job_id), answer, times)


def failed(match: Match, reason: str, message: str, times: int | None = None) -> Fault:
    """Jobs that end with an error of the server's choice, such as jobRateLimitExceeded."""
    return Fault(match, lambda *_: JobError(reason, message), times)


def reset_after(match: Match, times: int | None = None, skip: int = 0) -> Fault:
    """The server does what it was asked, and the connection breaks before its answer arrives."""

    def answer(_: Request, proceed: Proceed) -> Reply:
        proceed()
        return Reply(0, reset=True)

    return Fault(match, answer, times, skip)


# --- the proxy ----------------------------------------------------------------------------------------------------


class Proxy:
    """A running proxy before `upstream`, as a context manager.

    url: for BIGQUERY_EMULATOR_HOST · faults: the first that is due answers · requests: all that came, in order
    """

    def __init__(self, upstream: str, *faults: Fault) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faults = list(faults)
        self.requests: list[Request] = []
        self._uploads: dict[str, dict[str, Any]] = {}  # by upload id: the job whose data comes in a request of its own
        self._failed: dict[str, tuple[JobError, dict[str, Any]]] = {}  # by job id
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def jobs(self) -> list[str]:
        """The ids of the jobs that were submitted, in order; one twice if it was submitted twice."""
        return [request.job_id for request in self.requests if request.submits]

    def answer(self, request: Request, proceed: Proceed) -> Reply:
        """A fault's answer, or the emulator's."""
        with self._lock:
            self.requests.append(request)
            refused = self._failed.get(request.job_id)
            fault = None if refused else next((each for each in self.faults if each.due(request)), None)
        if refused:
            return self._failed_before(request, *refused)
        said = fault.answer(request, proceed) if fault else proceed()
        return self._fail(request, said) if isinstance(said, JobError) else said

    def _fail(self, request: Request, said: JobError) -> Reply:
        if not request.job.get("configuration"):  # jobs.query waits for the end, so that it can say it at once
            return error(said.code, said.reason, said.message)
        proto = {"reason": said.reason, "message": said.message}
        now = str(int(time.time() * 1000))
        resource = request.job | {
            "kind": "bigquery#job",
            "status": {"state": "DONE", "errorResult": proto, "errors": [proto]},
            "statistics": {"creationTime": now, "startTime": now, "endTime": now},
        }
        with self._lock:
            self._failed[request.job_id] = (said, resource)
        return Reply(200, json.dumps(resource).encode())

    @staticmethod
    def _failed_before(request: Request, said: JobError, resource: dict[str, Any]) -> Reply:
        """A failed job stays failed, and its id stays taken."""
        if request.submits:
            reference = resource["jobReference"]
            text = f"Already Exists: Job {reference['projectId']}:{reference['jobId']}"
            return error(409, "duplicate", text, "ALREADY_EXISTS")
        asked = _JOB.search(request.path)
        if asked and asked["kind"] == "queries":
            return error(said.code, said.reason, said.message)
        return Reply(200, json.dumps(resource).encode())

    def read(self, method: str, path: str, content_type: str, body: bytes) -> Request:
        """A request as the faults see it."""
        url = urlsplit(path)
        asked = parse_qs(url.query)
        upload = asked.get("upload_id", [""])[0]
        if upload:
            job, rows = self._uploads.get(upload, {}), _unzipped(body)
        elif asked.get("uploadType") == ["multipart"]:
            job, rows = _parts(content_type, body)
        else:
            job, rows = json.loads(body) if body and method == "POST" and _starts_job(url.path) else {}, b""
        return Request(method, url.path, len(body), job, rows)

    def remember(self, location: str, job: dict[str, Any]) -> None:
        """Where the data of `job` will be sent."""
        self._uploads[parse_qs(urlsplit(location).query)["upload_id"][0]] = job


def _starts_job(path: str) -> bool:
    return bool(_JOBS.search(path)) or path.endswith("/queries")


def _unzipped(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The job and the rows of a multipart upload."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)[1].encode()
    job, data = body.split(b"--" + boundary)[1:3]
    return json.loads(job.partition(b"\r\n\r\n")[2]), _unzipped(data.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = self.proxy.read(self.command, self.path, self.headers.get("Content-Type", ""), body)
        self._send(self.proxy.answer(request, lambda: self._forward(request, body)))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _forward(self, request: Request, body: bytes) -> Reply:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=600)
        try:
            # With the client's Host header, the emulator's upload URLs point at the proxy.
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            upstream.request(self.command, self.path, body, headers)
            got = upstream.getresponse()
            kept = tuple((name, value) for name, value in got.getheaders() if name.lower() not in _HOP_BY_HOP)
            if got.getheader("Location"):
                self.proxy.remember(got.getheader("Location"), request.job)
            return Reply(got.status, got.read(), "", kept)
        finally:
            upstream.close()

    def _send(self, reply: Reply) -> None:
        if reply.reset:
            # Closing with a linger of zero seconds sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        if reply.content_type:
            self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: `Proxy.requests` has it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error of ours; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
