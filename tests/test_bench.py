"""`make bench-ingest` runs, and docs/speed.md has a row for each goal that it measures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench_report import CONTENDERS, GOALS, TITLES

ROOT = Path(__file__).parents[1]


def run_bench(folder: Path, only: str, scale: float) -> subprocess.CompletedProcess[str]:
    """Run the bench, one round of a very small company, with its report in a folder."""
    given = {"BENCH_ONLY": only, "BENCH_SCALE": str(scale), "BENCH_ROUNDS": "1", "BENCH_FOLDER": str(folder)}
    command = [sys.executable, ROOT / "tests" / "bench_ingest.py"]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)


def list_first_cells(text: str, heading: str) -> list[str]:
    """List the first cells of the Markdown table that begins with a heading."""
    table = text.partition(heading)[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_a_first_read_is_measured_beside_the_bare_loop(tmp_path):
    done = run_bench(tmp_path, "bare,ours", 0.002)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list_first_cells(done.stdout, "| what |") == [TITLES["a"]]
    assert list_first_cells(done.stdout, "| | seconds |") == ["Tieout", "requests, nothing kept"]
    assert list_first_cells(done.stdout, "| goal |") == [goal.words for goal in GOALS]
    assert re.search(r"\| a first read, times the bare loop \| at most 2 \| [\d.e+]+ \| (yes|no) \|", done.stdout)
    runs = json.loads((tmp_path / "ingest.json").read_text())["cases"]["a"]["runs"]
    [[ours], [bare]] = runs["ours"], runs["bare"]
    assert ours["records"] == bare["records"] > 1000
    assert bare["memory"] > 20 and bare["seconds"] > 0 and bare["cpu"] > 0 and bare["requests"] >= 20
    assert (tmp_path / "ingest.png").stat().st_size > 10_000


def test_a_case_that_there_is_not_is_named(tmp_path):
    done = run_bench(tmp_path, "a,airbyte", 1)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("BENCH_ONLY=airbyte does not work: choose from a, a10, b, ")


def test_the_page_has_the_goals_that_the_bench_prints():
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert list_first_cells(page, "| goal |") == [goal.words for goal in GOALS]


@pytest.mark.soak
@pytest.mark.parametrize("case", [case for case in TITLES if case != "a"])
def test_each_case_runs(tmp_path, case):
    done = run_bench(tmp_path, case, 0.005)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list_first_cells(done.stdout, "| what |") == [TITLES[case]]


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in ("ours", "bare")])
def test_each_contender_runs(tmp_path, name):
    done = run_bench(tmp_path, name, 0.005)
    assert done.returncode == 0, done.stdout + done.stderr
    if f"Not measured: {CONTENDERS[name]}." in done.stdout:
        pytest.skip(done.stdout.rpartition("Not measured: ")[2])
    assert list_first_cells(done.stdout, "| | seconds |") == [CONTENDERS[name]]
