"""The home page without a browser: what needs a person, several companies, and the name that does not change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stkpi import settings
from stkpi.runs import history, home

RUN = "20250914-020000-000"
NUMBER = {
    "kpi": "leads",
    "place": "unit:North & Sales",
    "period": "2025-09-08",
    "title": "Leads of North & Sales, Sep 8 to Sep 14, 2025",
    "shown": "31",
    "ours": "96",
    "how": "31 is what you get with only jobs with a sold estimate (-65)",
}
FIGURES = {"name": "Acme <Paint>", "as_of": "2025-09-14", "numbers": {"matched": 129, "unmatched": 1}, "week": None}
RED = {"color": "red", "severity": "critical", "title": "Links", "found": "jobs: 7", "remedy": "Read jobs again."}
YELLOW = {"color": "yellow", "severity": "warning", "title": "Units", "found": "1 unit", "remedy": "Map it."}


def write_run(runs: Path, *steps: dict[str, Any], checks: tuple[dict[str, str], ...] = (), **figures: Any) -> None:
    """Leave what a run leaves in the folder: its history, its checks, and the figures of the home page."""
    (runs / RUN).mkdir(parents=True)
    (runs / "data").mkdir()
    (runs / "data" / "home.json").write_text(json.dumps(FIGURES | {"differing": []} | figures))
    counts = {color: sum(check["color"] == color for check in checks) for color in ("red", "yellow")} | {"green": 40}
    (runs / RUN / "validation.json").write_text(json.dumps({"counts": counts, "checks": checks}))
    history.append_event(runs / history.FILE, event="started", run_id=RUN)
    for step in steps:
        history.append_event(runs / history.FILE, event="step", run_id=RUN, seconds=1.0, rows=0, **step)
    history.append_event(runs / history.FILE, event="finished", run_id=RUN, status="failed")


def read_words(file: Path) -> str:
    """The text of a page."""
    page = re.sub(r"<style>.*?</style>", "", file.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_what_needs_a_person_comes_worst_first_with_what_to_do(tmp_path):
    failed = {"name": "ingest", "status": "failed", "html": "01_ingest.html", "error": "jobs: no answer <5 min>."}
    red = {"name": "validate", "status": "failed", "html": "04_validate.html", "error": "“Links” fails: jobs: 7."}
    write_run(
        tmp_path, failed, red, checks=(YELLOW, RED), differing=[NUMBER], guesses={"count": 26, "folder": "company"}
    )
    home.write_home(tmp_path)
    words, page = read_words(tmp_path / "index.html"), (tmp_path / "index.html").read_text()
    order = ["What needs you", "The step ingest failed.", "Links: jobs: 7", "Read jobs again.", "ServiceTitan shows 31"]
    order += [
        "only jobs with a sold estimate",
        "Guesses in company: 26.",
        "Units: 1 unit",
        "Map it.",
        "History of runs",
    ]
    assert [words.find(each) for each in order] == sorted(words.find(each) for each in order)
    assert all(each in words for each in order)
    assert words.count("Links") == 2  # once as a check, once as the error of its step in the history
    assert "129 of 130 of your numbers match ServiceTitan ; 1 does not ." in words.replace("&amp;", "&")
    assert "40 of 42 checks passed" in words
    assert 'href="explore.html#period=2025-09-08&amp;place=unit%3ANorth+%26+Sales&amp;kpi=leads"' in page
    assert "Acme &lt;Paint&gt;" in page
    assert "no answer &lt;5 min&gt;" in page


def test_without_figures_there_is_a_page_that_says_so(tmp_path):
    home.write_home(tmp_path)
    assert "There are no figures yet." in read_words(tmp_path / "index.html")
    assert "No runs yet" in read_words(tmp_path / "index.html")


def test_the_home_above_lists_every_company(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RUNS", tmp_path)
    for name in ("acme", "zeta"):
        write_run(tmp_path / name, name=name.title())
        home.write_home(tmp_path / name)
    above = (tmp_path / "index.html").read_text()
    assert 'href="acme/index.html"' in above
    assert 'href="zeta/index.html"' in above
    assert "Through Sunday, Sep 14, 2025. 129 of 130 of your numbers match ServiceTitan" in read_words(
        tmp_path / "index.html"
    )
    assert 'href="../index.html">All companies' in (tmp_path / "zeta" / "index.html").read_text()


@pytest.mark.parametrize("before", [None, "20250913-020000-000"])
def test_latest_names_the_newest_run_in_which_all_went_well(tmp_path, before):
    if before:
        home.point_to(tmp_path, before)
    (tmp_path / RUN).mkdir()
    home.point_to(tmp_path, RUN)
    assert (tmp_path / "latest").resolve() == tmp_path / RUN
    assert sorted(path.name for path in tmp_path.iterdir()) == [RUN, "latest"]
