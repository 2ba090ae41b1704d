"""Notebooks in JupyterLab: tables that people sort and search, charts that tell their numbers, and no network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import altair
import pandas as pd
import pytest
from browser import Watched
from playwright.sync_api import expect

from stkpi import __main__, settings, warehouse
from stkpi.kpis.definition import read_definitions
from stkpi.reporting import charts, figures, tables
from stkpi.reporting.fragments import VEGA_LITE, Fragment

FRAME = pd.DataFrame({"unit": ["North", "South", "East", "West", "Mid", "Far"], "booked": [9, 100, 20, None, 1000, -5]})


def show(fragment: Fragment) -> dict:
    """What a notebook keeps of a fragment."""
    return {"text/html": fragment._repr_html_(), **fragment._repr_mimebundle_()}


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "03_kpi_build.ipynb")  # as Jupyter sets it for a notebook that is open


def test_a_page_of_a_run_stays_as_it_is():
    table, chart = tables.render_table(FRAME), charts.render_bars(pd.Series({"a": 1.0}), "One")
    assert show(table) == {"text/html": table.data}
    assert show(chart) == {"text/html": chart.data}
    assert "<script" not in table.data + chart.data


@pytest.mark.usefixtures("lab")
def test_a_table_is_sorted_by_its_numbers_and_searched(browser):
    watched = Watched(browser)
    page = watched.page
    page.set_content(show(tables.render_table(FRAME))["text/html"])
    page.click("th:has-text('booked')")
    booked = page.locator("tbody td:nth-child(2)")
    assert [text.split(".")[0] for text in booked.all_inner_texts()] == ["—", "-5", "9", "20", "100", "1,000"]
    page.click("th:has-text('booked')")
    assert booked.first.inner_text() == "1,000.0"
    page.fill("input[type=search]", "sou")
    expect(page.locator("tbody tr")).to_have_count(1)
    watched.context.close()
    assert watched.faults == []


@pytest.mark.usefixtures("lab", "healthy")
def test_charts_are_vega_lite_with_the_numbers_of_the_pictures():
    with warehouse.connect(read_only=True) as target:
        definitions = read_definitions()
        company = figures.read_company_weeks(target, definitions, settings.load().as_of)
        weekly = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
    weeks = tables.select_full_weeks(weekly, settings.load().as_of)
    steps = [("theirs", 31.0, "31"), ("not sold", 65.0, "+65"), ("other", -2.0, "-2"), ("ours", 94.0, "94")]
    drawn = {
        "trends": charts.render_trends(company, definitions),
        "units": charts.render_unit_charts(weeks, definitions),
        "bars": charts.render_bars(pd.Series([3, 3], index=["same", "same"]), "Three"),
        "waterfall": charts.render_waterfall(steps, "Why"),
    }
    for name, fragment in drawn.items():
        shown = show(fragment)
        assert shown["text/html"] is None, name
        spec = shown[VEGA_LITE]
        altair.ConcatChart.from_dict({key: value for key, value in spec.items() if key != "$schema"})  # it is valid
        assert len(spec["concat"]) == fragment.data.count("<figure>")
    leads = drawn["trends"].chart["concat"][0]["layer"][0]["data"]["values"]
    assert [row["value"] for row in leads] == company["leads"].tail(charts.TREND_WEEKS).tolist()
    bars = drawn["bars"].chart["concat"][0]["layer"][0]["data"]["values"]
    assert len({row["name"] for row in bars}) == 2  # two of one name are two bars
    ends = [(row["start"], row["end"]) for row in drawn["waterfall"].chart["concat"][0]["layer"][0]["data"]["values"]]
    assert ends == [(0, 31), (31, 96), (96, 94), (0, 94)]


@pytest.fixture
def server(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """JupyterLab as the command starts it, on a free port and with a copy of the notebooks: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copytree(settings.ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / name))
    for name in ("SETTINGS_DIR", "WORKSPACES_DIR"):
        monkeypatch.setenv(f"JUPYTERLAB_{name}", str(tmp_path / name))
    (tmp_path / "CONFIG_DIR").mkdir()
    own = {"ServerApp": {"allow_root": True, "open_browser": False, "port": port}, "IdentityProvider": {"token": "t"}}
    (tmp_path / "CONFIG_DIR" / "jupyter_server_config.json").write_text(json.dumps(own))
    with (tmp_path / "log").open("w") as log:
        command = __main__.make_lab_command(tmp_path / "notebooks")
        running = subprocess.Popen(command, env=os.environ, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert running.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)


@pytest.mark.soak
def test_a_notebook_in_jupyterlab(server, browser):
    """All cells run; a table is sorted and searched, the chart is drawn, and nothing is asked of another machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url))
    page.on("websocket", lambda each: asked.append(each.url.replace("ws:", "http:")))
    page.goto(f"{server}/lab/tree/05_leads_diagnostics.ipynb?token=t")
    page.wait_for_selector("text=| Idle")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    # A cell that is out of sight is not drawn.
    cell = page.locator(".jp-CodeCell", has=page.locator("text=ways.table)"))
    table = cell.locator("table.dataTable")
    table.scroll_into_view_if_needed()
    numbers = table.locator("tbody td:nth-child(2)")
    before = numbers.all_inner_texts()
    heading = table.locator("th").nth(1)
    heading.click()
    rising = [float(text.replace(",", "")) for text in numbers.all_inner_texts()]
    heading.click()
    falling = [float(text.replace(",", "")) for text in numbers.all_inner_texts()]
    assert rising == sorted(rising) == falling[::-1]
    assert len(rising) == len(before) > 5
    cell.locator("input[type=search]").fill("merged customers")
    expect(table.locator("tbody tr")).to_have_count(1)
    chart = page.locator(".vega-embed canvas, .vega-embed svg").first
    chart.scroll_into_view_if_needed()
    assert chart.bounding_box()["width"] > 300
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((f"{server}/", "data:", "blob:"))] == []
    context.close()
