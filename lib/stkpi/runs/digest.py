"""The newest week as a text, for a message: whether the numbers match ServiceTitan, the scorecards, what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stkpi.formatting import show_controls
from stkpi.reconcile.observations.outcomes import describe_match
from stkpi.reporting import pages, site
from stkpi.runs import history

FILE = "week.txt"  # in the folder of a run, for whoever sends it by other means
MOST = 5  # numbers that differ


def read_week(runs: Path, run: Path) -> tuple[str, str]:
    """Return a headline and the text of the newest week as the home page has it; both empty without figures.

    runs: the folder of all runs; run: that of the newest one, which has the checks
    """
    home, checks = (history.read_json(path) for path in (runs / site.DATA / site.HOME, run / "validation.json"))
    if not home.get("week"):
        return "", ""
    headline = f"{home['name']}, {home['week']['label']}: {describe_match(home['numbers'])}"
    return show_controls(headline, keep=""), "".join(
        f"{show_controls(line, keep='')}\n" for line in _list_lines(home, checks)
    )


def _list_lines(home: Mapping[str, Any], checks: Mapping[str, Any]) -> Iterator[str]:
    counts = checks.get("counts", {})
    passed = f" {counts.get('green', 0)} of {sum(counts.values())} checks passed." if counts else ""
    yield f"{home['name']}, through {pages.format_weekday(home['as_of'])}"
    yield f"{describe_match(home['numbers'])}.{passed}"
    for number in home["differing"][:MOST]:
        how = f" {number['how']}." if number["how"] else ""
        yield f"- {number['title']}: ServiceTitan shows {number['shown']}, here it is {number['ours']}.{how}"
    if len(home["differing"]) > MOST:
        yield f"- and {len(home['differing']) - MOST} more"
    yield ""
    yield f"The week of {home['week']['label']}:"
    cards = home["cards"]
    label, value = (max(len(card[name]) for card in cards) for name in ("label", "rounded"))
    for card in cards:
        note = f"provisional until {card['until']}" if card["until"] else card["note"]
        words = ", ".join(filter(None, (note, card["mark"]["outcome"] and card["mark"]["text"])))
        yield f"{card['label']:<{label}}  {card['rounded']:>{value}}  {words}".rstrip()
    changed = [f"- {card['label']}: {card['changed']['text']}" for card in cards if card["changed"]]
    if changed:
        yield ""
        yield "Numbers of past weeks that moved:"
        yield from changed
