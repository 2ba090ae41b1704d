"""Keep one GitHub issue while nightly runs fail: open it, update it, close it; and tell Slack and e-mail.

`python -m stkpi.runs.alerts --exit-code N --link URL`, after the nightly run; with `--heartbeat` instead of the exit
code at another time of the day: did a run begin at all? Both need GITHUB_TOKEN and GITHUB_REPOSITORY, and post to Slack
if SLACK_WEBHOOK is set. With `--weekly`, the newest week goes to Slack and, by MAIL_SERVER, to MAIL_TO. Exit codes:
0 sent, or nothing to send; 1 not sent; 2 usage error.
"""

from __future__ import annotations

import argparse
import re
import smtplib
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from stkpi import settings, terminal
from stkpi.errors import UserError
from stkpi.formatting import format_age, show_controls
from stkpi.runs import digest, history

LABEL = "nightly is red"
LONGEST_PAUSE = timedelta(hours=26)  # between the beginnings of two nights: GitHub may be two hours late
TIMEOUT = 30  # seconds
# The text after the name of an unexpected exception may quote a record, which must not go into an issue.
UNEXPECTED = re.compile(r"(^|: )([A-Z]\w+): .*")

News = Literal["failed", "still failing", "passed again"]


class NotSent(Exception):
    """GitHub or Slack did not accept the message; the text says why and what to do."""


@dataclass(frozen=True)
class Problem:
    """A failed check or step, in the words of a manager: what it is, what was found, what to do."""

    title: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class NightlyResult:
    """The result of a nightly run. `problems` make it a failure; `unusual` checks are only shown; `headline` and
    `week`: the newest figures as text (see `digest.read_week`), which may be those of an earlier night.
    """

    as_of: str | None
    problems: tuple[Problem, ...]
    unusual: tuple[str, ...] = ()
    headline: str = ""
    week: str = ""

    @property
    def title(self) -> str:
        """The title of the issue."""
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"Nightly run failed: {self.problems[0].title}{more}"

    def write_body(self, link: str) -> str:
        """Write the text of the issue, in Markdown; `link` is the URL of the run."""
        numbers = f"The numbers up to {self.as_of}" if self.as_of else "The numbers"
        problems = [
            f"- **{_escape(each.title)}** {_escape(each.found)}. {each.remedy}".strip() for each in self.problems
        ]
        unusual = ["", "Unusual, but not a failure:", *(f"- {_escape(text)}" for text in self.unusual)]
        return "\n".join(
            [
                f"{numbers} cannot be trusted until this is fixed:",
                "",
                *problems,
                *(unusual if self.unusual else ()),
                *(["", "The newest figures there are:", "", _fence(self.week)] if self.week else ()),
                "",
                f"The pages with the rows behind it: [the run]({link}). README_AUDIT.md says how to read data again.",
                "",
                "_Every nightly run that fails updates this text; the first one that passes closes the issue._",
            ]
        )


def _escape(text: str) -> str:
    """Return a text in which a name is neither HTML nor a link nor the mention of an account."""
    return re.sub(r"([<\[])", r"\\\1", show_controls(text)).replace("@", "@\N{ZERO WIDTH SPACE}")


def _fence(text: str) -> str:
    """Return a text of several lines that Markdown and Slack show as it is."""
    return f"```\n{text.replace('`', chr(39)).rstrip()}\n```"


@dataclass(frozen=True)
class Action:
    """What to do with an issue: open one (without a number), update it, close it, or drop it as a duplicate."""

    kind: Literal["open", "update", "close", "drop"]
    issue: int | None = None


def decide(failed: bool, open_issues: Sequence[int]) -> tuple[Action, ...]:
    """Decide what to do after a nightly run, given the numbers of the open issues with LABEL.

    The oldest issue stays. There are more only if two runs ended at the same moment.

    >>> decide(True, [])
    (Action(kind='open', issue=None),)
    """
    issues = sorted(open_issues)
    if not failed:
        return tuple(Action("close", issue) for issue in issues)
    if not issues:
        return (Action("open"),)
    return Action("update", issues[0]), *(Action("drop", issue) for issue in issues[1:])


def read_result(runs: Path, exit_code: int) -> NightlyResult:
    """Read the result of the newest run in `runs` from its summary.json and validation.json.

    exit_code: the exit code of the run; a code other than 0 is a failure whatever the files say
    """
    folder = max((path.parent for path in runs.glob("[0-9]*/summary.json")), default=runs)
    summary, validation = (history.read_json(folder / f"{name}.json") for name in ("summary", "validation"))
    checks = [check for check in validation.get("checks", ()) if check["color"] != "green"]
    critical = [check for check in checks if check["color"] == "red" and check["severity"] == "critical"]
    problems = [Problem(check["title"], f"fails: {_redact_finding(check)}", check["remedy"]) for check in critical]
    for step in summary.get("steps", ()):
        error = step["error"] or "see its page"
        if step["status"] != "ok" and not any(check["title"] in error for check in critical):  # it is a problem already
            problems.append(Problem(step["name"], f"{step['status']}: {_redact_error(error).rstrip('.')}"))
    if not summary:
        problems = [Problem("There is no report", f"The run ended with exit code {exit_code}: see its log")]
    elif exit_code and not problems:
        problems = [Problem("The run broke off", f"It ended with exit code {exit_code}: see its log")]
    unusual = tuple(
        f"{check['title']}: {check['color']}, {_redact_finding(check)}" for check in checks if check not in critical
    )
    return NightlyResult(summary.get("as_of"), tuple(problems), unusual, *digest.read_week(runs, folder))


def check_heartbeat(last: datetime | None, now: datetime) -> NightlyResult:
    """Return a failure if the last night began more than `LONGEST_PAUSE` ago, or there was none."""
    if last and now - last <= LONGEST_PAUSE:
        return NightlyResult(None, ())
    title = f"No nightly run has begun since {last:%Y-%m-%d %H:%M} UTC" if last else "No nightly run has begun yet"
    found = f"The last one began {format_age(now - last)}" if last else "The list of runs is empty"
    remedy = "Start it by hand (Actions > nightly > Run workflow), and see there whether GitHub has turned it off."
    return NightlyResult(None, (Problem(title, found, remedy),))


def _redact_finding(check: Mapping[str, Any]) -> str:
    # The error of an engine may quote a record, too.
    return re.sub(r"(Could not be checked): .*", r"\1", check["found"])


def _redact_error(error: str) -> str:
    return UNEXPECTED.sub(r"\1\2, see its page", error)


class GitHub:
    """The issues with LABEL of a repository."""

    def __init__(self, api: str, repository: str, token: str) -> None:
        """Prepare a session for `repository` (owner/name), without a call."""
        self.repository = f"{api}/repos/{repository}"
        self.session = requests.Session()
        self.session.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"})
        # A POST whose answer is lost is not repeated: it could open a second issue.
        retry = Retry(2, backoff_factor=0.5, status_forcelist=(502, 503, 504), allowed_methods=("GET", "PATCH"))
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def list_open_issues(self) -> list[int]:
        """List the numbers of the open issues, without pull requests, which this API returns as issues."""
        found = self._call("GET", "/issues", params={"labels": LABEL, "state": "open", "per_page": 100})
        return [issue["number"] for issue in found if "pull_request" not in issue]

    def open(self, title: str, body: str) -> int:
        """Open an issue; return its number."""
        return int(self._call("POST", "/issues", json={"title": title, "body": body, "labels": [LABEL]})["number"])

    def change(self, issue: int, comment: str, **fields: str) -> None:
        """Set fields of an issue, and add a comment, which GitHub mails to the watchers."""
        self._call("PATCH", f"/issues/{issue}", json=fields)
        self._call("POST", f"/issues/{issue}/comments", json={"body": comment})

    def find_last_night(self) -> datetime | None:
        """Return when the newest run of the workflow `nightly` began; None if there was none."""
        found = self._call("GET", "/actions/workflows/nightly.yml/runs", params={"per_page": 1})["workflow_runs"]
        return datetime.fromisoformat(found[0]["created_at"]) if found else None

    def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            response = self.session.request(method, self.repository + path, timeout=TIMEOUT, **content)
            reply = response.json()
        except requests.RequestException as error:
            raise NotSent(f"Cannot reach GitHub to look after the issue ({type(error).__name__}).") from None
        if not response.ok:
            why = f"{response.status_code} {reply.get('message', '')}".strip()
            raise NotSent(
                f"GitHub refused to {method} {path} for the nightly run ({why}): the job needs `issues: write`, the "
                "heartbeat `actions: read` too, and the repository needs Issues turned on."
            )
        return reply


def update_issue(github: GitHub, result: NightlyResult, link: str) -> News | None:
    """Open, update or close the issue; return the news, None if there was and is no failure. Raises NotSent."""
    news: News | None = None
    for action in decide(bool(result.problems), github.list_open_issues()):
        news = _apply(github, action, result, link) or news
    return news


def _apply(github: GitHub, action: Action, result: NightlyResult, link: str) -> News | None:
    match action:
        case Action("open"):
            opened = github.open(result.title, result.write_body(link))
            # Two runs may end at the same moment, and both find no issue: the older issue stays.
            for other in decide(True, [*{opened, *github.list_open_issues()}]):
                if other.kind == "drop":
                    _apply(github, other, result, link)
            return "failed"
        case Action("update", int(issue)):
            comment = f"Still failing: [the run]({link})."
            github.change(issue, comment, title=result.title, body=result.write_body(link))
            return "still failing"
        case Action("close", int(issue)):
            github.change(issue, f"Passed again: [the run]({link}).", state="closed", state_reason="completed")
            return "passed again"
        case Action("drop", int(issue)):
            github.change(issue, "Duplicate of an older issue.", state="closed", state_reason="not_planned")
    return None


def describe_news(news: News, result: NightlyResult) -> str:
    """Return the news in one sentence."""
    return f"{result.title} ({news})" if result.problems else "Nightly run passed again."


def post_to_slack(webhook: str, text: str, week: str, link: str) -> None:
    """Post a sentence with a link, and below it the newest week. Raises NotSent, without the URL of the webhook: anyone
    who knows it can post.
    """
    text, week = (_escape_slack(each) for each in (text, week))
    text = f"{text} <{link}|See the run>{f'{chr(10)}{_fence(week)}' if week else ''}"
    try:
        response = requests.post(webhook, json={"text": text}, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise NotSent(f"Cannot reach Slack ({type(error).__name__}).") from None
    if not response.ok:
        raise NotSent(f"Slack refused the message ({response.status_code}): create a new webhook for SLACK_WEBHOOK.")


def _escape_slack(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return text


def send_mail(server: str, sender: str, to: str, subject: str, text: str) -> None:
    """Send a text by e-mail. Raises NotSent, without the server's password.

    server: smtp://user:password@host:587, or smtps:// for a port that is encrypted from the start
    sender: the address that it comes from; to: addresses with commas between
    """
    address = urlsplit(server)
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, sender, to
    message.set_content(text)
    encryption = ssl.create_default_context()
    try:
        if address.scheme == "smtps":
            opened: smtplib.SMTP = smtplib.SMTP_SSL(
                address.hostname or "", address.port or 465, timeout=TIMEOUT, context=encryption
            )
        else:
            opened = smtplib.SMTP(address.hostname or "", address.port or 587, timeout=TIMEOUT)
        with opened:
            if address.scheme != "smtps" and (address.username or opened.has_extn("starttls")):
                opened.starttls(context=encryption)  # a password never goes over an open line
            if address.username:
                opened.login(unquote(address.username), unquote(address.password or ""))
            opened.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        code = getattr(error, "smtp_code", "")
        raise NotSent(
            f"The mail server did not take the message ({code or type(error).__name__}): see MAIL_SERVER."
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stkpi.runs.alerts", description=(__doc__ or "").splitlines()[0])
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--exit-code", type=int, help="the exit code of the nightly run")
    kind.add_argument("--heartbeat", action="store_true", help="has a nightly run begun within the last 26 hours?")
    kind.add_argument("--weekly", action="store_true", help="send the newest week")
    parser.add_argument("--link", help="the URL of the run; of --weekly, empty: the page on this machine")
    parser.add_argument("--runs", type=Path, help="the folder of all runs; default: the company's")
    options = parser.parse_args(arguments)
    try:
        config = settings.load()
        if options.weekly:
            return _send_week(config, options.runs or config.runs, options.link)
        if not options.link:
            raise UserError("Give --link, the URL of the run.")
        if not (config.github_token and config.github_repository):
            raise UserError("Set GITHUB_TOKEN and GITHUB_REPOSITORY (owner/name): the alert is an issue there.")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    github = GitHub(config.github_api_url, config.github_repository, config.github_token.get_secret_value())
    news: News | None = None
    failures: list[NotSent] = []
    if options.heartbeat:
        try:
            result = check_heartbeat(github.find_last_night(), datetime.now(UTC))
        except NotSent as failure:
            print(failure, file=sys.stderr)
            return 1
        if not result.problems:  # an issue that is open is of a night that failed: the next good one closes it
            print("A nightly run has begun within the last 26 hours.")
            return 0
    else:
        result = read_result(options.runs or config.runs, options.exit_code)
    try:
        news = update_issue(github, result, options.link)
    except NotSent as failure:
        failures.append(failure)
        news = "failed" if result.problems else None  # Slack must get it anyway
    try:
        if news and config.slack_webhook:
            webhook = config.slack_webhook.get_secret_value()
            post_to_slack(webhook, describe_news(news, result), result.week, options.link)
    except NotSent as failure:
        failures.append(failure)
    print(result.write_body(options.link) if result.problems else f"Nightly run {news or 'passed'}.")
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return 1 if failures else 0


def _send_week(config: settings.Settings, runs: Path, link: str | None) -> int:
    """Send the newest week to Slack and by e-mail, as far as they are set; print it, and return the exit code."""
    result = read_result(runs, 0)
    week, problems = result.week, result.problems
    if not week:
        raise UserError(f"There is no full week in {runs} yet: run a night first.")
    link = link or (runs / "index.html").resolve().as_uri()
    if problems:
        week = f"The newest night failed ({problems[0].title}): these may be the figures of an earlier one.\n\n{week}"
    print(f"{week}\n{link}")
    failures = []
    try:
        if config.slack_webhook:
            post_to_slack(config.slack_webhook.get_secret_value(), result.headline, week, link)
    except NotSent as failure:
        failures.append(failure)
    try:
        if config.mail_to:
            if not config.mail_server:
                raise UserError("MAIL_TO is set and MAIL_SERVER is not: put smtp://user:password@host:587 into .env.")
            server, sender = config.mail_server.get_secret_value(), config.mail_from or config.mail_to.split(",")[0]
            send_mail(server, sender, config.mail_to, result.headline, f"{week}\n{link}\n")
    except NotSent as failure:
        failures.append(failure)
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    terminal.run_command(main)
