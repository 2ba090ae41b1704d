"""A company's own folder: where it is, what company.yml says and keeps, and its CSV files as people save them."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from stkpi import company, settings, warehouse
from stkpi.company import Adoption
from stkpi.errors import UserError
from stkpi.marts import build as marts

SEPTEMBER = date(2025, 9, 14)
OCTOBER = date(2025, 10, 5)
UNIT_COLUMNS = company.COLUMNS[company.UNITS]


def config_of(folder: Path) -> settings.Settings:
    return settings.Settings(_env_file=None, company=folder)


@pytest.fixture
def config(tmp_path: Path) -> settings.Settings:
    """The settings of a company whose folder does not exist yet."""
    return config_of(tmp_path / "acme")


def write(config: settings.Settings, text: str, file: str = company.FILE) -> Path:
    path = config.company / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    return path


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_folder_of_the_made_up_company_is_a_copy_and_another_one_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(company, "SANDBOX_FOLDER", tmp_path / "copy")
    assert company.find_folder(config_of(tmp_path / "acme")) == tmp_path / "acme"
    assert not list(tmp_path.iterdir())
    assert company.find_folder(config_of(tmp_path / "copy")) == tmp_path / "copy"
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "company.yml", "business_units.csv", "job_type_rules.csv", "observed.csv"
    }  # fmt: skip


def test_a_file_of_the_made_up_company_that_was_edited_is_kept_and_a_deleted_one_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(company, "SANDBOX_FOLDER", tmp_path)
    config = config_of(tmp_path)
    company.find_folder(config)
    (tmp_path / "company.yml").write_text("name: Mine\n")
    (tmp_path / "observed.csv").unlink()
    assert company.read_company(config).name == "Mine"
    assert (tmp_path / "observed.csv").read_bytes() == (company.SANDBOX_PRESET / "observed.csv").read_bytes()


def test_the_distribution_ships_no_company_and_git_does_not_ignore_one():
    assert not (settings.ROOT / "company").exists()
    assert "company" not in (settings.ROOT / ".gitignore").read_text()


# --- company.yml ------------------------------------------------------------------------------------------------------

WRITTEN = """\
# Ours
name:   Acme Painting   # since 1999

definitions:
  # as the screen
  leads:
    - {adopted_on: 2025-09-14, choices: {status: completed}, evidence: [leads-1, leads-2], note: "as it: is"}  # Joe

  # Money
  total_booked:
    - adopted_on: 2025-09-14
      choices:
        measure: total  # with tax
"""


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "name:\ndefinitions:\n", "definitions: {leads: }"])
def test_what_is_missing_is_empty(config, text):
    if text is not None:
        write(config, text)
    read = company.read_company(config)
    assert (read.folder, read.name, read.departures("leads"), read.find_adoption("leads")) == (
        config.company, "", {}, None
    )  # fmt: skip


def test_a_company_is_read_as_it_is_written(config):
    write(config, WRITTEN)
    read = company.read_company(config)
    assert read.name == "Acme Painting"
    assert read.definitions == {
        "leads": (Adoption({"status": "completed"}, SEPTEMBER, ("leads-1", "leads-2"), "as it: is"),),
        "total_booked": (Adoption({"measure": "total"}, SEPTEMBER),),
    }
    assert read.departures("total_booked") == {"measure": "total"}


def test_an_adoption_is_added_and_what_a_person_wrote_stays(config):
    path = write(config, WRITTEN)
    company.adopt_definition(
        config, "leads", {"status": "open"}, adopted_on=OCTOBER, evidence=["leads-3"], note='"no" & yes'
    )
    text = path.read_text()
    for line in WRITTEN.splitlines():
        assert line.replace(" ", "") in text.replace(" ", "")
    assert text.index("leads:") < text.index("leads-3") < text.index("total_booked:")
    read = company.read_company(config)
    assert read.departures("leads") == {"status": "open"}
    assert read.definitions["leads"][1].note == '"no" & yes'


def test_undoing_brings_the_one_before_back_and_keeps_the_history(config):
    path = write(config, WRITTEN)
    company.adopt_definition(config, "leads", {"status": "open"}, adopted_on=OCTOBER, evidence=())
    company.undo_adoption(config, "leads", undone_on=date(2025, 10, 6))
    company.undo_adoption(config, "total_booked", undone_on=date(2025, 10, 7))
    read = company.read_company(config)
    assert (read.departures("leads"), read.departures("total_booked")) == ({"status": "completed"}, {})
    assert read.definitions["leads"][1] == Adoption({"status": "open"}, OCTOBER, undone_on=date(2025, 10, 6))
    assert "measure: total  # with tax" in path.read_text()
    company.undo_adoption(config, "leads", undone_on=date(2025, 10, 8))
    assert company.read_company(config).departures("leads") == {}
    before = path.read_bytes()
    with pytest.raises(UserError, match="nothing to undo"):
        company.undo_adoption(config, "leads", undone_on=date(2025, 10, 9))
    assert path.read_bytes() == before


def test_the_first_adoption_makes_the_folder_and_the_file(config):
    company.adopt_definition(
        config, "leads", {"status": "completed"}, adopted_on=SEPTEMBER, evidence=["leads-1"], note="x"
    )
    assert (config.company / "company.yml").read_text() == (
        "definitions:\n  leads:\n    - adopted_on: 2025-09-14\n      choices:\n        status: completed\n"
        "      evidence:\n        - leads-1\n      note: x\n"
    )
    assert [path.name for path in config.company.iterdir()] == ["company.yml"]


@pytest.mark.parametrize(
    "text",
    [
        "name: Acme",
        "definitions:",
        "definitions: {}  # none\n",
        "definitions: {leads: [], gpm: []}",
        "{name: Acme}",
        "definitions:\r\n  leads:\r\nname: Acme\r\n",
        "definitions:\n  leads:\n  - {adopted_on: 2025-09-01, choices: {}}\n",
        "definitions:\n  leads:\n  - adopted_on: 2025-09-01\n    undone_on: 2025-09-02\n    choices:\n      a: b",
        "\ufeffname: >\n  Acme\n  Painting\n",
    ],
)
def test_every_layout_can_be_added_to(config, text):
    write(config, text)
    before = company.read_company(config)
    for kpi in ("leads", "gpm"):
        company.adopt_definition(config, kpi, {"status": "open"}, adopted_on=OCTOBER, evidence=[])
        company.undo_adoption(config, kpi, undone_on=OCTOBER)
        company.adopt_definition(config, kpi, {"zone": "utc"}, adopted_on=OCTOBER, evidence=[])
    read = company.read_company(config)
    assert read.name == before.name
    assert [read.departures(kpi) for kpi in ("leads", "gpm")] == [{"zone": "utc"}] * 2
    assert read.definitions["leads"][:-2] == before.definitions.get("leads", ())


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: Acme\ndefinition:\n  leads: []\n", 2, ("definition", "definitions?")),
        ("name: Acme\nname: Other\n", 2, ("name",)),
        ("definitions:\n  leads:\n    status: open\n", 2, ("leads", "list")),
        ("definitions:\n  leads:\n    - {adopted: 2025-09-14, choices: {}}\n", 3, ("adopted", "adopted_on?")),
        ("definitions:\n  leads:\n    - {choices: {status: open}}\n", 3, ("adopted_on",)),
        ("definitions:\n  leads:\n    - {adopted_on: 2025-09-14}\n", 3, ("choices",)),
        ("definitions:\n  leads:\n    - {adopted_on: 9/14/2025, choices: {}}\n", 3, ("9/14/2025", "2025-09-14")),
        ("definitions:\n  leads:\n    - {adopted_on: 2025-09-14, choices: {status: [a]}}\n", 3, ("status",)),
        ("name: [Acme\n", 2, ()),
    ],
)
def test_an_error_names_the_file_the_line_and_what_is_meant(config, text, line, words):
    write(config, text)
    with pytest.raises(UserError) as raised:
        company.read_company(config)
    said = str(raised.value)
    assert f"company.yml, line {line}: " in said
    assert all(word in said for word in words)
    assert "\n" not in said


def test_a_file_that_cannot_be_read_is_not_written(config):
    path = write(config, "definitions:\n  leads: nonsense\n")
    with pytest.raises(UserError, match="line 2"):
        company.adopt_definition(config, "leads", {}, adopted_on=OCTOBER, evidence=[])
    assert path.read_text() == "definitions:\n  leads: nonsense\n"


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)  # null, yes and true are among them
TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30)  # a note is one line
ADOPTIONS = st.builds(
    Adoption,
    choices=st.dictionaries(NAMES | st.sampled_from(["null", "yes", "true"]), NAMES, max_size=3),
    adopted_on=st.dates(),
    evidence=st.lists(TEXTS.filter(bool) | NAMES, max_size=3).map(tuple),
    note=TEXTS,
)
STEPS = st.lists(st.tuples(st.sampled_from(["leads", "gpm", "null"]), ADOPTIONS | st.dates()), max_size=8)


@limits(deadline=None, max_examples=30)
@given(steps=STEPS, start=st.sampled_from(["", WRITTEN, "definitions: {}", "definitions:\r\n\r\n# end\r\n"]))
def test_any_sequence_of_adopting_and_undoing_reads_back(steps, start):
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder))
        write(config, start)
        expected = {kpi: list(found) for kpi, found in company.read_company(config).definitions.items()}
        for kpi, step in steps:
            known = expected.get(kpi, [])
            open_places = [i for i, one in enumerate(known) if one.undone_on is None]
            if isinstance(step, Adoption):
                given = {name: getattr(step, name) for name in ("adopted_on", "evidence", "note")}
                assert company.adopt_definition(config, kpi, step.choices, **given) == step
                expected.setdefault(kpi, []).append(step)
            elif open_places:
                known[open_places[-1]] = replace(known[open_places[-1]], undone_on=step)
                assert company.undo_adoption(config, kpi, undone_on=step) == known[open_places[-1]]
            else:
                with pytest.raises(UserError):
                    company.undo_adoption(config, kpi, undone_on=step)
        read = company.read_company(config)
        assert {kpi: list(found) for kpi, found in read.definitions.items()} == expected
        for kpi, found in expected.items():
            in_force = [one for one in found if one.undone_on is None]
            assert read.departures(kpi) == (in_force[-1].choices if in_force else {})


# --- the CSV files ----------------------------------------------------------------------------------------------------

UNITS = company.read_table(company.SANDBOX_PRESET / company.UNITS, UNIT_COLUMNS)
PLAIN = (company.SANDBOX_PRESET / company.UNITS).read_text()


@pytest.mark.fault(92)
@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", ", ").encode(),
        PLAIN.replace(",", "\t").encode("utf-16"),
        ("sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n")).encode(),
        PLAIN.replace("business_unit,rollup", "Business_Unit , ROLLUP").replace("\n", ",,\n,,,,\n").encode(),
        PLAIN.replace("Sales,RES", "SALES,res").replace("Production,COMM", "production,Comm").encode(),
    ],
    ids=["BOM", "semicolons", "blanks", "UTF-16 with tabs", "sep=", "letter case and empty lines", "words"],
)
def test_a_file_as_people_save_it_has_the_same_18_units(tmp_path, data):
    path = tmp_path / "business_units.csv"
    path.write_bytes(data)
    assert len(UNITS) == 18
    assert company.read_table(path, UNIT_COLUMNS) == UNITS


def test_umlauts_of_an_old_excel_a_comma_in_quotes_and_a_missing_end_are_read(tmp_path):
    path = tmp_path / "business_units.csv"
    path.write_bytes('region,business_unit,rollup,division,segment\n"Bad, Süd",Zürich - Sales,Zürich'.encode("cp1252"))
    assert company.read_table(path, UNIT_COLUMNS) == [
        {"business_unit": "Zürich - Sales", "rollup": "Zürich", "region": "Bad, Süd", "division": "", "segment": ""}
    ]


def test_a_missing_file_and_an_empty_one_have_no_rows(tmp_path):
    (tmp_path / "empty.csv").write_text("\n \n")
    assert [company.read_table(tmp_path / name, UNIT_COLUMNS) for name in ("no.csv", "empty.csv")] == [[], []]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("business_unit,rollup,region,segment\nA,A,A,RES\n", ("business_units.csv", "division")),
        (f"{','.join(UNIT_COLUMNS)}\nA,A,A,Both,\nB,B,B,Sale,\n", ("line 3", "Sale;", "Sales?")),
        (f"{','.join(UNIT_COLUMNS)}\nA,A,A,,commercial\n", ("line 2", "commercial", "COMM")),
        (f"{','.join(UNIT_COLUMNS)}\n\nBad, Süd,A,A,Both,RES\n", ("line 3", "quotes")),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "business_units.csv"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        company.read_table(path, UNIT_COLUMNS)
    assert all(word in str(raised.value) for word in words)


def test_a_rule_is_one_of_two_in_any_letter_case(tmp_path):
    path = tmp_path / "job_type_rules.csv"
    path.write_text("job_type;rule\nTouchup;Warranty\n")
    assert company.read_table(path, ("job_type", "rule")) == [{"job_type": "Touchup", "rule": "warranty"}]
    path.write_text("job_type;rule\nTouchup;warrenty\n")
    with pytest.raises(UserError, match=r"line 2.*warrenty.*did you mean warranty\?"):
        company.read_table(path, ("job_type", "rule"))


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8", ","), ("utf-8-sig", ";"), ("cp1252", ";"), ("utf-16", "\t")]
)
def test_a_row_is_added_in_the_layout_that_the_file_has(tmp_path, encoding, delimiter):
    path = tmp_path / "observed.csv"
    path.write_text("who,note,id\n,Süd,1".replace(",", delimiter), encoding=encoding)
    for row in ({"id": "2", "note": "West, Süd;"}, {"id": "3", "note": "→"}):
        company.append_row(path, ("id", "note"), row)
    assert company.read_table(path, ("id", "note")) == [
        {"id": "1", "note": "Süd"}, {"id": "2", "note": "West, Süd;"}, {"id": "3", "note": "→"}
    ]  # fmt: skip


CELLS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8).map(str.strip).filter(bool)


@limits(deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=4),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_a_program_writes_is_read(rows, encoding, delimiter, end):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rules.csv"
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(
                [("a", "b"), *rows]
            )
        assert company.read_table(path, ("a", "b")) == [{"a": a, "b": b} for a, b in rows]


# --- in the warehouse -------------------------------------------------------------------------------------------------


def test_the_tables_of_a_company_without_files_have_no_rows_and_others_are_cleaned(healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANY", str(tmp_path / "none"))
    marts.build_marts()
    with warehouse.connect() as target:
        assert target.query("SELECT COUNT(*) AS n FROM st_ref_v2.business_unit_rollup")["n"][0] == 0
        assert target.query("SELECT COUNT(*) AS n FROM st_ref_v2.job_type_rules")["n"][0] == 0
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / company.UNITS).write_text('BUSINESS_UNIT;rollup;region;division;segment\n"A; ""B""";C ;;sales;\n')
    marts.build_marts()
    with warehouse.connect() as target:
        (row,) = target.query("SELECT * FROM st_ref_v2.business_unit_rollup").to_dict("records")
    assert (row["business_unit"], row["rollup"], row["division"]) == ('A; "B"', "C", "Sales")
