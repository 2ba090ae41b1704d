"""The walks of CONTRIBUTING.md: whoever adds something and forgets a place is told which one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_validation
import yaml
from test_audit import SPEC
from zetasql_judge import Judge, of_this_project

from sandbox import truth
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import company, settings
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import choose_definitions
from stkpi.marts import build as marts
from stkpi.marts import increment
from stkpi.reconcile import exports
from stkpi.servicetitan import entities
from stkpi.servicetitan.entities import ENTITIES, Entity, Field
from stkpi.validation import checks, suites
from stkpi.validation import run as validation

VISITS = Entity("visits", "jpm/v2/tenant/{tenant}/visits", (Field("id", "INT64"), Field("createdOn", "TIMESTAMP")))
ROWS_OF_A_CHECK = {"item", "value", "detail"}


# --- an entity --------------------------------------------------------------------------------------------------------


def forgotten_for_an_entity(entity: Entity, tenant: Store) -> Iterator[str]:
    """The places that an entity of the registry still needs, in the order of the walk."""
    if f"/{entity.path}" not in SPEC["paths"]:
        yield f"tests/data/openapi.json has no /{entity.path}: copy it from ServiceTitan's published description"
    if entity.name not in RESOURCES:
        yield f"lib/sandbox/resources.py does not serve {entity.name}"
    elif not any(tenant.rows(entity.name)):
        yield f"lib/sandbox/lifecycle.py (or organization.py) makes no record of {entity.name}"


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_an_entity_has_every_place_that_it_needs(entity, tenant):
    assert list(forgotten_for_an_entity(entity, tenant)) == []


def test_each_forgotten_place_of_an_entity_is_named(tenant, monkeypatch):
    assert [line.split()[0] for line in forgotten_for_an_entity(VISITS, tenant)] == [
        "tests/data/openapi.json",
        "lib/sandbox/resources.py",
    ]
    monkeypatch.setitem(SPEC["paths"], f"/{VISITS.path}", {})
    monkeypatch.setitem(RESOURCES, "visits", RESOURCES["appointments"])
    monkeypatch.setattr(tenant, "rows", lambda name: iter(()))
    assert list(forgotten_for_an_entity(VISITS, tenant)) == [
        "lib/sandbox/lifecycle.py (or organization.py) makes no record of visits"
    ]


@pytest.mark.parametrize("name", ["entity_days", "keys"])
def test_a_new_entity_is_in_the_checks_of_all_records_without_a_line_there(name, monkeypatch):
    monkeypatch.setitem(ENTITIES, "visits", VISITS)
    sql = validation.read_check_sql(name, choose_definitions({}))
    assert "SELECT 'visits' AS entity, _key, DATE(createdOn, @time_zone) AS day, " in sql
    assert "FROM st_raw_v2.raw_visits" in sql
    assert sql.count(" AS entity, _key, ") == len(ENTITIES)
    assert f"FROM {entities.ALL_RECORDS}" not in sql


def test_a_new_entity_is_checked_for_its_key_without_a_suite(monkeypatch):
    monkeypatch.setitem(ENTITIES, "visits", VISITS)
    (suite,) = (suite for suite in suites.read_suites() if suite.table == "st_raw_v2.raw_visits")
    assert (suite.instant, suite.day) == ("createdOn", None)
    assert [each.name for each in suite.expectations] == ["raw_visits._key.NotBeNull", "raw_visits._key.BeUnique"]


def test_an_entity_that_a_kpi_counts_is_compared_by_the_next_build():
    """Without its line in records.sql, an increment would not see that a record of it changed."""
    records = (marts.SQL / "st_ref_v2" / "records.sql").read_text(encoding="utf-8")
    read = {
        name
        for folder in ("st_ref_v2", "st_mart_v2")
        for path in (marts.SQL / folder).glob("*.sql")
        for name in re.findall(r"\bst_raw_v2\.raw_(\w+)", path.read_text(encoding="utf-8"))
    }
    # The names of customers are compared whole, see increment.py.
    counted = {name for name in read if ENTITIES[name].grows} - {"customers"}
    selected = set(re.findall(r"^ +(?:SELECT )?'(\w+)'(?: AS entity)?,", records, re.MULTILINE))
    assert counted - selected == set(), "sql/st_ref_v2/records.sql has no SELECT of these entities"
    compared = set(re.findall(r"\w+", increment.COMPARED))
    assert counted - compared == set(), "COMPARED in lib/stkpi/marts/increment.py does not name these entities"


# --- a check ----------------------------------------------------------------------------------------------------------


def forgotten_for_a_check(name: str, names_with_limits: set[str], columns: set[str]) -> Iterator[str]:
    """The places that a check still needs, in the order of the walk; columns: those of its SELECT."""
    if not columns:
        yield f"sql/checks/{name}.sql is not there"
    elif columns != ROWS_OF_A_CHECK:
        yield f"sql/checks/{name}.sql must give item, value and detail, and gives {', '.join(sorted(columns))}"
    if name not in names_with_limits:
        yield f"expectations/thresholds.yml has no limits for {name} under checks: it would never run"
    if not any(name in damage.expect for damage in test_validation.DAMAGES.values()):
        yield f"DAMAGES in tests/test_validation.py has no damage that turns {name}: does it see anything?"


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The analyzer, knowing the tables of this project."""
    return of_this_project()


def test_a_check_has_every_place_that_it_needs(judge):
    files = {path.stem for path in validation.SQL.glob("*.sql")} - test_validation.INPUTS
    limits = {name for name in checks.read_thresholds().checks if "." not in name}
    forgotten = []
    for name in sorted((files | limits) - validation.SERIES.keys()):
        sql = (
            validation.read_check_sql(name, choose_definitions({}))
            if name in files | validation.GENERATED.keys()
            else ""
        )
        columns = {column for column, _ in judge.analyze(sql, marts.PARAMETERS)} if sql else set()
        forgotten += forgotten_for_a_check(name, limits, columns)
    assert forgotten == []


def test_each_forgotten_place_of_a_check_is_named():
    assert list(forgotten_for_a_check("keys", {"keys"}, ROWS_OF_A_CHECK)) == []
    assert [line.split()[0] for line in forgotten_for_a_check("new", set(), set())] == [
        "sql/checks/new.sql",
        "expectations/thresholds.yml",
        "DAMAGES",
    ]
    assert list(forgotten_for_a_check("keys", {"keys"}, {"item", "value"})) == [
        "sql/checks/keys.sql must give item, value and detail, and gives item, value"
    ]


def test_a_line_of_a_suite_needs_limits_for_its_kind():
    limits = yaml.safe_load(checks.THRESHOLDS.read_text(encoding="utf-8"))
    known = limits["expectations"].keys() | limits["checks"].keys()
    without = {
        each.kind for suite in suites.read_suites() for each in suite.expectations if not known & {each.kind, each.name}
    }
    assert without == set(), "expectations/thresholds.yml has no limits for these kinds under expectations"


# --- an export column -------------------------------------------------------------------------------------------------


def test_a_name_of_an_export_column_is_one_that_a_header_can_have_and_means_one_thing():
    names = [(name, field) for field, (_, names) in exports.FIELDS.items() for name in names.split(", ")]
    never = [name for name, _ in names if " ".join(exports._list_words(name)) != name]
    assert never == [], "FIELDS in lib/stkpi/reconcile/exports.py: write names in lower case, without signs"
    twice = [(name, field) for name, field in names if exports._BY_NAME[name.replace(" ", "")] != field]
    assert twice == [], "FIELDS in lib/stkpi/reconcile/exports.py: these names already mean another column"


@pytest.mark.parametrize("field", exports.FIELDS)
def test_the_kind_of_an_export_column_is_one_that_is_read(field):
    assert exports.FIELDS[field][0] in {"id", "text", "date", "flag", "money"}


# --- a KPI, a reason --------------------------------------------------------------------------------------------------


def test_a_kpi_has_every_place_that_it_needs(tenant):
    """The entry itself is checked by its reader, which names what it lacks; its fact table wants a case (test_sql)."""
    units = company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS])
    computed = next(iter(truth.compute_weekly_kpis(tenant, units, TIME_ZONE, LAST_DAY).values()))
    forgotten = [f"lib/sandbox/truth.py does not compute {name}" for name in read_catalog() if name not in computed]
    assert forgotten == []


def test_a_reason_has_words_that_stand_in_a_sentence():
    """`3 jobs only there, not completed`: the `out` of an option, a noun or a participle and no sentence of its own."""
    wrong = [
        f"sql/catalog.yml: {name}, {dimension.name}, {option.id}: out does not stand within a sentence: {option.out}"
        for name, kpi in read_catalog().items()
        for dimension in kpi.conditions
        for option in dimension.options
        if option.out and (option.out != option.out.strip() or option.out.endswith(".") or option.out[0].isupper())
    ]
    assert wrong == []


# --- the truth --------------------------------------------------------------------------------------------------------

LIBRARY = settings.ROOT / "lib"


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, with their packages, such as stkpi.marts.build."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_truth_of_the_made_up_company_uses_nothing_of_the_product():
    """It proves nothing if it is computed by what it checks. legacy.py writes a warehouse, and knows no truth."""
    shared = [
        f"{path.relative_to(LIBRARY)} imports {name}"
        for path in sorted((LIBRARY / "sandbox").glob("*.py"))
        for name in imported(path)
        if name.partition(".")[0] == "stkpi" and path.name != "legacy.py"
    ]
    assert shared == []
