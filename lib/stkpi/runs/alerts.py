"""One GitHub issue while the nights are red, opened, kept up to date and closed; and a word on Slack.

`python -m stkpi.runs.alerts --exit-code N --link URL`, after the night: needs GITHUB_TOKEN and GITHUB_REPOSITORY;
posts to Slack where SLACK_WEBHOOK is set. Exit codes: 0 told, or nothing to tell; 1 not told; 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from stkpi import settings
from stkpi.errors import UserError

LABEL = "nightly is red"
SECONDS = 30
# The text after the name of an unforeseen exception may quote a record; what people are told must not.
UNFORESEEN = re.compile(r"(^|: )([A-Z]\w+): .*")

News = Literal["red", "still red", "green again"]


class NotTold(Exception):
    """GitHub or Slack did not take the message; the text says why and what to do."""


@dataclass(frozen=True)
class Problem:
    """Something red, in a manager's words: what it is, what was found, what to do."""

    title: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Night:
    """What a night came to. `problems` make it red; `unusual` checks are shown and leave it green."""

    as_of: str | None
    problems: tuple[Problem, ...]
    unusual: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The title of the issue."""
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"The night is red: {self.problems[0].title}{more}"

    def body(self, link: str) -> str:
        """The text of the issue, in Markdown. `link` leads to the run."""
        numbers = f"The numbers up to {self.as_of}" if self.as_of else "The numbers"
        told = [f"- **{each.title}** {each.found}. {each.remedy}".strip() for each in self.problems]
        unusual = ["", "Unusual, but no reason to stop:", *(f"- {text}" for text in self.unusual)]
        return "\n".join(
            [
                f"{numbers} cannot be trusted until this is mended:",
                "",
                *told,
                *(unusual if self.unusual else ()),
                "",
                f"The pages with the rows behind it: [the run]({link}). README_AUDIT.md says how to read data again.",
                "",
                "_Every red night brings this text up to date; the first green night closes the issue._",
            ]
        )


@dataclass(frozen=True)
class Action:
    """What to do with an issue: open one (without a number), update it, close it, or drop it as a copy."""

    kind: Literal["open", "update", "close", "drop"]
    issue: int | None = None


def decide(red: bool, open_issues: Sequence[int]) -> tuple[Action, ...]:
    """What a night asks for, given the numbers of the open issues about red nights.

    There is one at most, the oldest. More can only come from nights that ended at the same moment.
    """
    issues = sorted(open_issues)
    if not red:
        return tuple(Action("close", issue) for issue in issues)
    if not issues:
        return (Action("open"),)
    return Action("update", issues[0]), *(Action("drop", issue) for issue in issues[1:])


def read(runs: Path, exit_code: int) -> Night:
    """The night that ended with `exit_code`, by summary.json and validation.json of the newest run in `runs`."""
    folder = max((path.parent for path in runs.glob("*/summary.json")), default=runs)
    summary, validation = (_json(folder / f"{name}.json") for name in ("summary", "validation"))
    checks = [check for check in validation.get("checks", ()) if check["color"] != "green"]
    stopping = [check for check in checks if check["color"] == "red" and check["severity"] == "critical"]
    problems = [Problem(check["title"], f"fails: {_found(check)}", check["remedy"]) for check in stopping]
    for step in summary.get("steps", ()):
        error = step["error"] or "its page says why"
        if step["status"] != "ok" and not any(check["title"] in error for check in stopping):  # else it is told above
            problems.append(Problem(step["name"], f"{step['status']}: {_clean(error).rstrip('.')}"))
    if not summary:
        problems = [Problem("There is no report", f"The night ended with exit code {exit_code}: its log says why")]
    elif exit_code and not problems:
        problems = [Problem("The night broke off", f"It ended with exit code {exit_code}: its log says why")]
    unusual = tuple(f"{check['title']}: {check['color']}, {_found(check)}" for check in checks if check not in stopping)
    return Night(summary.get("as_of"), tuple(problems), unusual)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _found(check: Mapping[str, Any]) -> str:
    # What an engine said instead of an answer may quote a record as well.
    return re.sub(r"(Could not be checked): .*", r"\1", check["found"])


def _clean(error: str) -> str:
    return UNFORESEEN.sub(r"\1\2, see its page", error)


class GitHub:
    """The issues of a repository that carry LABEL."""

    def __init__(self, api: str, repository: str, token: str) -> None:
        self.issues = f"{api}/repos/{repository}/issues"
        self.session = requests.Session()
        self.session.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"})
        # A POST that was perhaps taken is not repeated: it would open a second issue.
        retry = Retry(2, backoff_factor=0.5, status_forcelist=(502, 503, 504), allowed_methods=("GET", "PATCH"))
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def open_issues(self) -> list[int]:
        """The numbers of the open ones. A pull request is an issue to this API; it is not one of ours."""
        found = self._call("GET", "", params={"labels": LABEL, "state": "open", "per_page": 100})
        return [issue["number"] for issue in found if "pull_request" not in issue]

    def open(self, title: str, body: str) -> int:
        """Open an issue; returns its number."""
        return self._call("POST", "", json={"title": title, "body": body, "labels": [LABEL]})["number"]

    def change(self, issue: int, comment: str, **fields: str) -> None:
        """Set fields of an issue and say so in a comment, which GitHub mails to those who watch."""
        self._call("PATCH", f"/{issue}", json=fields)
        self._call("POST", f"/{issue}/comments", json={"body": comment})

    def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            response = self.session.request(method, self.issues + path, timeout=SECONDS, **content)
            reply = response.json()
        except requests.RequestException as error:
            raise NotTold(f"GitHub could not be asked about the issue of the night ({type(error).__name__}).") from None
        if not response.ok:
            why = f"{response.status_code} {reply.get('message', '')}".strip()
            raise NotTold(
                f"GitHub refused to {method} the issue of the night ({why}): the job needs `issues: write`, and the"
                " repository needs its Issues turned on."
            )
        return reply


def keep_issue(github: GitHub, night: Night, link: str) -> News | None:
    """Open, update or close the one issue; returns what is new, None if all was and is well. Raises NotTold."""
    red, news = bool(night.problems), None
    for action in decide(red, github.open_issues()):
        news = _apply(github, action, night, link) or news
    return news


def _apply(github: GitHub, action: Action, night: Night, link: str) -> News | None:
    match action:
        case Action("open"):
            opened = github.open(night.title, night.body(link))
            # Two nights may have ended at one moment and both found no issue: the older issue stays.
            for other in decide(True, [*{opened, *github.open_issues()}]):
                if other.kind == "drop":
                    _apply(github, other, night, link)
            return "red"
        case Action("update", issue):
            github.change(issue, f"Still red: [the run]({link}).", title=night.title, body=night.body(link))
            return "still red"
        case Action("close", issue):
            github.change(issue, f"Green again: [the run]({link}).", state="closed", state_reason="completed")
            return "green again"
        case Action("drop", issue):
            github.change(issue, "Another issue says the same.", state="closed", state_reason="not_planned")
    return None


def post(webhook: str, news: News, night: Night, link: str) -> None:
    """Tell Slack. Raises NotTold, without the webhook's address: who knows it can post."""
    text = f"{night.title} ({news})" if night.problems else "The night is green again."
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    try:
        response = requests.post(webhook, json={"text": f"{text} <{link}|See the run>"}, timeout=SECONDS)
    except requests.RequestException as error:
        raise NotTold(f"Slack could not be reached ({type(error).__name__}).") from None
    if not response.ok:
        raise NotTold(f"Slack refused the message ({response.status_code}): make a new webhook for SLACK_WEBHOOK.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stkpi.runs.alerts", description=__doc__.splitlines()[0])
    parser.add_argument("--exit-code", type=int, required=True, help="that of the night")
    parser.add_argument("--link", required=True, help="where people find the run")
    parser.add_argument("--runs", type=Path, default=settings.ROOT / "runs", help="the folder of the runs")
    options = parser.parse_args(arguments)
    try:
        config = settings.load()
        if not (config.github_token and config.github_repository):
            raise UserError("Set GITHUB_TOKEN and GITHUB_REPOSITORY (owner/name): the alarm is an issue there.")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    night = read(options.runs, options.exit_code)
    github = GitHub(config.github_api_url, config.github_repository, config.github_token.get_secret_value())
    news, failures = None, []
    try:
        news = keep_issue(github, night, options.link)
    except NotTold as failure:
        failures.append(failure)
        news = "red" if night.problems else None  # Slack must hear of it all the same
    try:
        if news and config.slack_webhook:
            post(config.slack_webhook.get_secret_value(), news, night, options.link)
    except NotTold as failure:
        failures.append(failure)
    print(night.body(options.link) if night.problems else f"The night is {news or 'green'}.")
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
