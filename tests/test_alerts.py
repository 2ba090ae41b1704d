"""Alerts: one issue opened, updated and closed while runs fail and pass, over HTTP to a GitHub in memory."""

import email
import email.policy
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from stkpi.runs import alerts, runner
from stkpi.runs.alerts import Action, Problem
from stkpi.runs.runner import Outcome
from stkpi.validation.checks import Check
from stkpi.validation.run import Validation

LINK = "https://github.example/owner/repo/actions/runs/42"
TOKEN, WEBHOOK_SECRET = "t0ken-of-the-job", "T000-s3cret"

COVERAGE = Check(
    name="coverage",
    title="Every month of every entity is there",
    severity="critical",
    color="red",
    found="payments: 2025-03 has 0 records, 412 are usual",
    remedy="Read the month again: make backfill ENTITY=… FROM=… TO=…",
)
LINKS = Check("links", "Records find those they belong to", "critical", "red", "31 of 200 lead nowhere", "Read again.")
NEW_STATUS = Check("status", "jobStatus has known values only", "warning", "yellow", "1 of 300: Parked", "Decide.")


@dataclass
class Fake:
    """What GitHub and Slack remember. `fail` answers every request to GitHub with a status; `wait` holds lists."""

    issues: list[dict] = field(default_factory=list)
    comments: list[tuple[int, str]] = field(default_factory=list)
    slack: list[str] = field(default_factory=list)
    fail: int | None = None
    slack_status: int = 200
    wait: threading.Barrier | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> list[dict]:
        return [issue for issue in self.issues if issue["state"] == "open" and "pull_request" not in issue]

    def answer(self, method: str, path: str, query: dict[str, list[str]], content: dict) -> tuple[int, object]:
        """As api.github.com does for /repos/owner/repo/issues: lists by label and state, creates, changes, comments."""
        parts = path.removeprefix("/repos/owner/repo/issues").strip("/").split("/")
        if method == "GET":
            with self.lock:
                wanted = set(query["labels"])
                found = [i for i in self.issues if i["state"] == query["state"][0] and wanted <= set(i["labels"])]
            if self.wait:  # after the reading: what one opens then, the other has not read
                self.wait.wait(timeout=60)
            return 200, found[::-1]  # newest first
        with self.lock:
            if method == "POST" and parts == [""]:
                self.issues.append({"number": len(self.issues) + 1, "state": "open", **content})
                return 201, self.issues[-1]
            number = int(parts[0])
            if method == "POST" and parts[1:] == ["comments"]:
                self.comments.append((number, content["body"]))
                return 201, {"id": len(self.comments)}
            if method == "PATCH" and len(parts) == 1:
                self.issues[number - 1] |= content
                return 200, self.issues[number - 1]
        return 404, {"message": "Not Found"}


def handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    """The HTTP side of a Fake."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            url = urlsplit(self.path)
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
            if url.path == f"/slack/{WEBHOOK_SECRET}":
                fake.slack.append(content["text"])
                status, body = fake.slack_status, "ok"
            elif self.headers["Authorization"] != f"Bearer {TOKEN}":
                status, body = 401, {"message": "Bad credentials"}
            elif fake.fail:
                status, body = fake.fail, {"message": "Resource not accessible by integration"}
            else:
                status, body = fake.answer(self.command, url.path, parse_qs(url.query), content)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = reply

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def github(monkeypatch) -> Iterator[Fake]:
    """A GitHub and a Slack of its own for one test, which the settings point at."""
    fake = Fake()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(fake)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("GITHUB_API_URL", address)
        monkeypatch.setenv("GITHUB_REPOSITORY", "owner/repo")
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("SLACK_WEBHOOK", f"{address}/slack/{WEBHOOK_SECRET}")
        yield fake
        server.shutdown()


def night(runs: Path, run_id: str, *checks: Check, steps: tuple[Outcome, ...] = ()) -> Path:
    """Write what a run of these checks and steps leaves, with the code that writes it in a real one; returns `runs`."""
    found = Validation(date(2025, 9, 14), date(2025, 6, 16), checks, pd.DataFrame(), pd.DataFrame())
    status = "failed" if found.error else "ok"
    figures = {"as_of": "2025-09-14", "checks": found.counts}
    outcomes = [*steps, Outcome("validate", status, html="04_validate.html", error=found.error, figures=figures)]
    folder = runs / run_id
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(runner.summarize(run_id, "2025-09-15T09:17:00+00:00", outcomes)))
    (folder / "validation.json").write_text(json.dumps(found.to_dict()))
    return runs


CARD = {"label": "Leads", "rounded": "337", "note": "4 above usual", "until": "", "changed": None}
HOME = {
    "name": "Acme <Paint>",
    "as_of": "2025-09-14",
    "numbers": {"matched": 129, "unmatched": 1},
    "week": {"id": "2025-09-08", "label": "Sep 8 to Sep 14, 2025"},
    "differing": [
        {"title": "Leads of North", "shown": "31", "ours": "96", "how": "31 is what you get with sold jobs only (-65)"}
    ],
    "cards": [
        CARD | {"mark": {"outcome": "matched", "text": "matches ServiceTitan in 7 units"}},
        CARD
        | {"label": "GPM", "rounded": "90.6%", "until": "Oct 29", "mark": {"outcome": "", "text": "not compared"}}
        | {"changed": {"text": "Changed lately: `North`, week of Aug 18: 61.2%, now 57.4%", "id": "gpm/x/y"}},
    ],
}
WEEK = """\
Acme <Paint>, through Sunday, Sep 14, 2025
129 of 130 of your numbers match ServiceTitan. 40 of 42 checks passed.
- Leads of North: ServiceTitan shows 31, here it is 96. 31 is what you get with sold jobs only (-65).

The week of Sep 8 to Sep 14, 2025:
Leads    337  4 above usual, matches ServiceTitan in 7 units
GPM    90.6%  provisional until Oct 29

Numbers of past weeks that moved:
- GPM: Changed lately: `North`, week of Aug 18: 61.2%, now 57.4%
"""


def write_figures(runs: Path) -> None:
    """Leave the figures of a night, and how its checks ended."""
    (runs / "data").mkdir()
    (runs / "data" / "home.json").write_text(json.dumps(HOME))
    for path in runs.glob("*/validation.json"):
        counts = {"counts": {"green": 40, "yellow": 1, "red": 1}}
        path.write_text(json.dumps(json.loads(path.read_text()) | counts))


def tell(runs: Path, exit_code: int) -> int:
    return alerts.main(["--exit-code", str(exit_code), "--link", LINK, "--runs", str(runs)])


def test_failed_still_failing_and_passed_again_are_one_issue_opened_updated_and_closed(github, tmp_path):
    assert tell(night(tmp_path, "20250915-091700-000", COVERAGE, LINKS, NEW_STATUS), 1) == 0
    (issue,) = github.issues
    assert issue["title"] == "Nightly run failed: Every month of every entity is there (and 1 more)"
    assert (issue["state"], issue["labels"]) == ("open", ["nightly is red"])

    assert tell(night(tmp_path, "20250916-091700-000", LINKS), 1) == 0
    (issue,) = github.issues
    assert issue["title"] == "Nightly run failed: Records find those they belong to"
    assert "31 of 200 lead nowhere" in issue["body"]
    assert "Every month" not in issue["body"]

    assert tell(night(tmp_path, "20250917-091700-000", NEW_STATUS), 0) == 0
    (issue,) = github.issues
    assert (issue["state"], issue["state_reason"]) == ("closed", "completed")
    assert github.comments == [(1, f"Still failing: [the run]({LINK})."), (1, f"Passed again: [the run]({LINK}).")]
    see = f" <{LINK}|See the run>"
    assert github.slack == [
        f"Nightly run failed: Every month of every entity is there (and 1 more) (failed){see}",
        f"Nightly run failed: Records find those they belong to (still failing){see}",
        f"Nightly run passed again.{see}",
    ]

    assert tell(night(tmp_path, "20250918-091700-000", COVERAGE), 1) == 0
    assert [issue["state"] for issue in github.issues] == ["closed", "open"]


def test_a_pass_after_a_pass_sends_nothing(github, tmp_path, capsys):
    assert tell(night(tmp_path, "20250915-091700-000", NEW_STATUS), 0) == 0
    assert (github.issues, github.comments, github.slack) == ([], [], [])
    assert capsys.readouterr().out == "Nightly run passed.\n"


def test_the_issue_says_what_is_red_what_to_do_and_where(github, tmp_path):
    steps = (Outcome("ingest", "partial", error="Not complete: jobs. The first of them: the API answered 500."),)
    tell(night(tmp_path, "20250915-091700-000", COVERAGE, NEW_STATUS, steps=steps), 1)
    assert github.issues[0]["body"].splitlines() == [
        "The numbers up to 2025-09-14 cannot be trusted until this is fixed:",
        "",
        "- **Every month of every entity is there** fails: payments: 2025-03 has 0 records, 412 are usual."
        " Read the month again: make backfill ENTITY=… FROM=… TO=…",
        "- **ingest** partial: Not complete: jobs. The first of them: the API answered 500.",
        "",
        "Unusual, but not a failure:",
        "- jobStatus has known values only: yellow, 1 of 300: Parked",
        "",
        f"The pages with the rows behind it: [the run]({LINK}). README_AUDIT.md says how to read data again.",
        "",
        "_Every nightly run that fails updates this text; the first one that passes closes the issue._",
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("ConversionException: Could not convert 'Jane Roe' to INT64", "ConversionException, see its page"),
        ("Not complete: jobs. The first of them: KeyError: 'Jane Roe'", "The first of them: KeyError, see its page"),
    ],
)
def test_what_an_exception_quotes_is_not_told(github, tmp_path, error, told):
    unable = Check("links", "Records find theirs", "critical", "red", "Could not be checked: bad 'Jane Roe'", "Ask.")
    tell(night(tmp_path, "20250915-091700-000", unable, steps=(Outcome("ingest", "failed", error=error),)), 1)
    body = github.issues[0]["body"]
    assert told in body
    assert "- **Records find theirs** fails: Could not be checked. Ask." in body
    assert "Jane" not in body


def test_two_nights_that_end_at_one_moment_leave_one_issue(github, tmp_path):
    night(tmp_path, "20250915-091700-000", COVERAGE)
    github.wait = threading.Barrier(2)  # both have read that there is no issue before either opens one
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(tell, [tmp_path] * 2, [1, 1]))
    assert codes == [0, 0]
    assert [(issue["number"], issue["state"]) for issue in github.issues] == [(1, "open"), (2, "closed")]


@pytest.mark.parametrize(
    ("red", "open_issues", "actions"),
    [
        (True, [], [Action("open")]),
        (True, [7], [Action("update", 7)]),
        (True, [9, 7], [Action("update", 7), Action("drop", 9)]),
        (False, [], []),
        (False, [9, 7], [Action("close", 7), Action("close", 9)]),
    ],
)
def test_what_a_night_asks_for(red, open_issues, actions):
    assert alerts.decide(red, open_issues) == tuple(actions)


def test_a_pull_request_or_another_issue_is_not_ours(github, tmp_path):
    pull = {"number": 1, "state": "open", "labels": ["nightly is red"], "title": "A cure", "pull_request": {}}
    other = {"number": 2, "state": "open", "labels": ["bug"], "title": "Other"}
    github.issues += [pull, other]
    tell(night(tmp_path, "20250915-091700-000"), 0)
    assert [issue["state"] for issue in github.issues] == ["open", "open"]
    tell(night(tmp_path, "20250916-091700-000", COVERAGE), 1)
    assert [issue["title"] for issue in github.issues[:2]] == ["A cure", "Other"]
    assert len(github.issues) == 3


def test_a_night_without_reports_is_red(github, tmp_path):
    assert tell(tmp_path / "nothing", 2) == 0
    assert github.issues[0]["title"] == "Nightly run failed: There is no report"
    assert "ended with exit code 2" in github.issues[0]["body"]


def test_reports_that_are_missing_are_red_although_the_night_ended_with_0(tmp_path):
    assert [problem.title for problem in alerts.read_result(tmp_path, 0).problems] == ["There is no report"]


def test_an_exit_code_is_red_although_the_reports_are_green(tmp_path):
    night(tmp_path, "20250915-091700-000")
    assert alerts.read_result(tmp_path, 0).problems == ()
    assert alerts.read_result(tmp_path, 1).problems == (
        Problem("The run broke off", "It ended with exit code 1: see its log"),
    )


@pytest.mark.parametrize("status", ["partial", "failed", "skipped", "interrupted"])
def test_a_step_that_did_not_end_well_is_red_whatever_the_exit_code(tmp_path, status):
    night(tmp_path, "20250915-091700-000", steps=(Outcome("kpi_build", status, error="Because."),))
    assert alerts.read_result(tmp_path, 0).problems == (Problem("kpi_build", f"{status}: Because"),)


def test_a_critical_red_is_red_whatever_the_exit_code_and_a_warning_is_not(tmp_path):
    warning = Check("week", "The newest week is usual", "warning", "red", "leads: 3, 96 is usual", "True?")
    night(tmp_path / "a", "20250915-091700-000", warning)
    assert alerts.read_result(tmp_path / "a", 0).problems == ()
    assert alerts.read_result(tmp_path / "a", 0).unusual == ("The newest week is usual: red, leads: 3, 96 is usual",)
    night(tmp_path / "b", "20250915-091700-000", COVERAGE)
    assert alerts.read_result(tmp_path / "b", 0).problems[0].title == "Every month of every entity is there"


def test_what_github_refuses_is_one_sentence_and_slack_hears_of_the_night_all_the_same(github, tmp_path, capsys):
    github.fail = 403
    assert tell(night(tmp_path, "20250915-091700-000", COVERAGE), 1) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "(403 Resource not accessible by integration)" in error
    assert "`issues: write`" in error
    assert len(github.slack) == 1


def test_a_github_that_cannot_be_reached(github, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("SLACK_WEBHOOK")
    assert tell(night(tmp_path, "20250915-091700-000", COVERAGE), 1) == 1
    assert re.fullmatch(r".*GitHub.*\(ConnectionError\)\.\n", capsys.readouterr().err)


def test_what_slack_refuses_is_one_sentence_without_the_webhook(github, tmp_path, capsys):
    github.slack_status = 404
    assert tell(night(tmp_path, "20250915-091700-000", COVERAGE), 1) == 1
    told = capsys.readouterr()
    assert re.fullmatch(r"Slack refused.*\(404\).*SLACK_WEBHOOK\.\n", told.err)
    assert WEBHOOK_SECRET not in told.out + told.err
    assert TOKEN not in told.out + told.err
    assert len(github.open()) == 1


def test_without_slack_there_is_the_issue(github, tmp_path, monkeypatch):
    monkeypatch.delenv("SLACK_WEBHOOK")
    assert tell(night(tmp_path, "20250915-091700-000", COVERAGE), 1) == 0
    assert (len(github.open()), github.slack) == (1, [])


def test_a_text_cannot_break_out_of_slacks_markup(github, tmp_path):
    check = Check("x", "A & B <!channel>", "critical", "red", "wrong", "Mend.")
    tell(night(tmp_path, "20250915-091700-000", check), 1)
    assert github.slack[0].startswith("Nightly run failed: A &amp; B &lt;!channel&gt; (failed) <https://")


def test_without_a_token_the_command_says_what_to_set(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    assert tell(tmp_path, 1) == 2
    assert capsys.readouterr().err.startswith("Set GITHUB_TOKEN and GITHUB_REPOSITORY (owner/name)")


# --- the newest week --------------------------------------------------------------------------------------------------


def send_week(runs: Path) -> int:
    return alerts.main(["--weekly", "--link", LINK, "--runs", str(runs)])


def test_the_issue_and_slack_carry_the_newest_week(github, tmp_path):
    night(tmp_path, "20250915-091700-000", COVERAGE)
    write_figures(tmp_path)
    assert tell(tmp_path, 1) == 0
    week = WEEK.replace("`", "'")
    assert f"The newest figures there are:\n\n```\n{week}```\n" in github.issues[0]["body"]
    escaped = week.replace("<", "&lt;").replace(">", "&gt;")
    assert github.slack[0].endswith(f"(failed) <{LINK}|See the run>\n```\n{escaped}```")


@dataclass
class Mails:
    """A real SMTP server, with a certificate of its own; what it took."""

    address: str = ""
    taken: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def handle_DATA(self, _server: object, _session: object, envelope: Envelope) -> str:
        content = envelope.content.replace(b"\r\n", b"\n")
        self.taken.append(email.message_from_bytes(content, policy=email.policy.default))
        return "250 OK"

    def check_login(
        self, _server: object, _session: object, _envelope: object, _kind: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"p@ss word", handled=False)


def start_mail_server(handler: Mails, **options: Any) -> Controller:
    """Start an SMTP server on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=port, **options)
    controller.start()
    return controller


@pytest.fixture
def mails(tmp_path, monkeypatch) -> Iterator[Mails]:
    """An SMTP server on this machine that wants encryption and a login."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "server.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(tmp_path / "server.pem")
    server = Mails()
    options = {"tls_context": secure, "authenticator": server.check_login, "auth_required": True}
    controller = start_mail_server(server, **options)
    server.address = f"smtp://reports:p%40ss%20word@localhost:{controller.port}"
    monkeypatch.setenv("MAIL_TO", "owner@acme.example, office@acme.example")
    monkeypatch.setenv("MAIL_FROM", "tieout@acme.example")
    monkeypatch.setenv("MAIL_SERVER", server.address)
    yield server
    controller.stop()


def test_the_newest_week_is_mailed_and_posted(github, mails, tmp_path, capsys):
    night(tmp_path, "20250915-091700-000", NEW_STATUS)
    write_figures(tmp_path)
    assert send_week(tmp_path) == 0
    [mail] = mails.taken
    assert mail["Subject"] == "Acme <Paint>, Sep 8 to Sep 14, 2025: 129 of 130 of your numbers match ServiceTitan"
    assert (mail["From"], mail["To"]) == ("tieout@acme.example", "owner@acme.example, office@acme.example")
    assert mail.get_content() == f"{WEEK}\n{LINK}\n"
    assert mails.logins == [("reports", "p@ss word")]
    assert "129 of 130 of your numbers match ServiceTitan &lt;" not in github.slack[0]
    assert github.slack[0].startswith(
        f"Acme &lt;Paint&gt;, Sep 8 to Sep 14, 2025: 129 of 130 of your numbers match ServiceTitan <{LINK}|"
    )
    assert "Leads    337  4 above usual" in github.slack[0]
    assert capsys.readouterr().out == f"{WEEK}\n{LINK}\n"
    assert github.issues == []


def test_the_week_after_a_night_that_failed_says_so(mails, tmp_path):
    night(tmp_path, "20250915-091700-000", COVERAGE)
    write_figures(tmp_path)
    assert send_week(tmp_path) == 0
    first_line = mails.taken[0].get_content().partition("\n")[0]
    assert first_line == f"The newest night failed ({COVERAGE.title}): these may be the figures of an earlier one."


def test_a_password_never_goes_over_an_open_line(mails, tmp_path, monkeypatch, capsys):
    night(tmp_path, "20250915-091700-000")
    write_figures(tmp_path)
    plain = start_mail_server(mails, auth_require_tls=False)
    monkeypatch.setenv("MAIL_SERVER", f"smtp://reports:s3cret@localhost:{plain.port}")
    assert send_week(tmp_path) == 1
    monkeypatch.setenv("MAIL_SERVER", mails.address.replace("p%40ss", "wrong"))
    assert send_week(tmp_path) == 1
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)  # a certificate that nobody vouches for
    monkeypatch.setenv("MAIL_SERVER", mails.address)
    assert send_week(tmp_path) == 1
    monkeypatch.setenv("MAIL_SERVER", f"smtp://localhost:{plain.port}")  # without a password it may be open
    assert send_week(tmp_path) == 0
    plain.stop()
    assert len(mails.taken) == 1
    assert "s3cret" not in str(mails.logins)
    told = capsys.readouterr().err
    assert told.count("The mail server did not take the message") == 3
    assert "s3cret" not in told
    assert "(535)" in told


def test_what_is_missing_for_the_week_is_told(tmp_path, monkeypatch, capsys):
    assert send_week(tmp_path) == 2
    assert "There is no full week in" in capsys.readouterr().err
    night(tmp_path, "20250915-091700-000")
    write_figures(tmp_path)
    monkeypatch.setenv("MAIL_TO", "owner@acme.example")
    assert send_week(tmp_path) == 2
    assert capsys.readouterr().err.startswith("MAIL_TO is set and MAIL_SERVER is not")
