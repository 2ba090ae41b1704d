"""The home page of a company, `runs/index.html`: its figures, what needs a person, and the history of its runs.

The figures are those of the newest build (`reporting.site`); what needs a person is what the newest run that ended
says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stkpi import settings
from stkpi.reporting import pages, site
from stkpi.runs import history

MOST = 5  # problems of a kind that are told one by one


def write_home(runs: Path, running: str | None = None) -> None:
    """Write the home page in the folder `runs`, and the one above it, which lists all companies.

    running: the id of the run that is going on
    """
    known = history.read_runs(history.find_history(runs), running)
    _write(runs, known, [{"name": "All companies", "href": "../index.html"}] if _find_above(runs) else [])
    if above := _find_above(runs):
        _write(above, history.read_runs(history.find_history(above)), _list_companies(above))


def _find_above(runs: Path) -> Path | None:
    """The folder of all runs, where `runs` is that of one of several companies."""
    return runs.parent if runs.parent == settings.RUNS else None


def _write(runs: Path, known: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
    ended = next((run for run in known if run["finished_at"]), None)
    folder = runs / ended["run_id"] if ended else None
    home = history.read_json(runs / site.DATA / site.HOME)
    checks = history.read_json(folder / "validation.json") if folder else {}
    page = pages.render_index(
        known,
        home=home,
        problems=list(_list_problems(home, ended, checks)),
        checks=_count_checks(ended, checks),
        running=next((run for run in known if run["status"] == "running"), None),
        sandbox=bool(known and known[0].get("sandbox")),
        others=others or (_list_companies(runs) if runs == settings.RUNS else []),
    )
    pages.write_text(runs / "index.html", page)


def _list_companies(runs: Path) -> list[dict[str, Any]]:
    """The companies that have a home page of their own below `runs`."""
    found = []
    for path in sorted(runs.glob(f"*/{site.DATA}/{site.HOME}")):
        home, folder = history.read_json(path), path.parents[1]
        found.append({"href": f"{folder.name}/index.html", **home, "name": home.get("name") or folder.name})
    return found


def _count_checks(run: Mapping[str, Any] | None, validation: Mapping[str, Any]) -> dict[str, Any]:
    counts = validation.get("counts", {})
    return {"green": counts.get("green", 0), "total": sum(counts.values()), "html": _find_page(run, "validate")}


def _find_page(run: Mapping[str, Any] | None, step: str) -> str | None:
    pages_of = {each["name"]: each["html"] for each in run["steps"]} if run else {}
    return f"{run['run_id']}/{pages_of[step]}" if run and pages_of.get(step) else None


def _list_problems(
    home: Mapping[str, Any], run: Mapping[str, Any] | None, validation: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield what needs a person, worst first: failed steps, red checks, numbers that differ, guesses, yellow checks."""
    checks = [check for check in validation.get("checks", ()) if check["color"] != "green"]
    for step in run["steps"] if run else ():
        error = step["error"] or ""
        if step["status"] in ("ok", "skipped") or any(check["title"] in error for check in checks):
            continue  # a failed check is told below
        name = step["name"].replace("_", " ")
        yield {
            "mood": "failed",
            "title": f"The step {name} {'is not complete' if step['status'] == 'partial' else step['status']}.",
            "found": error,
            "remedy": "The figures below may be those of an earlier night. Fix the cause and run again.",
            "href": _find_page(run, step["name"]),
        }
    for check in checks:
        if check["color"] == "red":
            yield _describe_check(check, run)
    differing = home.get("differing", [])
    for number in differing[:MOST]:
        yield {
            "mood": "failed",
            "title": f"{number['title']}: ServiceTitan shows {number['shown']}, here it is {number['ours']}.",
            "found": number["how"] and f"{number['how'].rstrip('.')}.",
            "remedy": "Open it for the rows behind it. If you count another way, the definition can be changed.",
            "href": pages.link_figure(number, number["place"], number["period"]),
        }
    if len(differing) > MOST:
        yield {"mood": "failed", "title": f"{len(differing) - MOST} more numbers differ from ServiceTitan."}
    guesses = home.get("guesses", {})
    if guesses.get("count"):
        yield {
            "mood": "",
            "title": f"Guesses in {guesses['folder']}: {guesses['count']}.",
            "found": "How these units, job types and reports count was taken from what ServiceTitan says of them.",
            "remedy": "Correct what is wrong there, and empty the `guess` of each entry that is right.",
            "href": _find_page(run, "kpi_build"),
        }
    for check in checks:
        if check["color"] != "red":
            yield _describe_check(check, run)


def _describe_check(check: Mapping[str, Any], run: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "mood": "failed" if check["color"] == "red" else "",
        "title": f"{check['title'].rstrip('.')}:",
        "found": check["found"],
        "remedy": check["remedy"],
        "href": _find_page(run, "validate"),
    }


def point_to(runs: Path, run_id: str) -> None:
    """Have `latest` in the folder `runs` name a run."""
    new = runs / ".latest"
    new.unlink(missing_ok=True)
    new.symlink_to(run_id, target_is_directory=True)
    new.replace(runs / "latest")
