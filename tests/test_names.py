"""One name for a dataset in the code, another in the warehouse: by the tokens of a statement, and nowhere else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stkpi import settings
from stkpi.errors import UserError
from stkpi.marts.build import list_marts
from stkpi.warehouse.names import DATASETS, Write, map_name, map_sql, prepare_statement

LABELS = 'labels=[("made_by", "stkpi")]'
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=30)


@given(dataset=st.sampled_from(DATASETS), table=NAMES, text=TEXTS, comment=TEXTS)
def test_a_name_is_mapped_and_texts_and_comments_are_not(dataset, table, text, comment):
    literal = "'" + re.sub(r"(['\\\n])", r"\\\1", f"{text} {dataset}.t").replace("\\\n", "\\n") + "'"
    line = "-- " + re.sub(r"\s", " ", f"{comment} {dataset}.t")
    sql = "SELECT {literal} AS s, x.{table}\n{line}\nFROM {name} AS x JOIN `{other}` AS y ON x.a = y.a"
    given = {"literal": literal, "line": line, "table": f"t_{table}"}
    mapped = map_sql(sql.format(name=f"{dataset}.t_{table}", other=f"{dataset}.b", **given), "a_{}_b")
    part = dataset.split("_")[1]
    assert mapped == sql.format(name=f"a_{part}_b.t_{table}", other=f"a_{part}_b.b", **given)


@given(pattern=st.tuples(NAMES, NAMES).map("{}".join), dataset=st.sampled_from(DATASETS))
def test_names_are_told_apart_and_what_is_not_ours_keeps_its_name(pattern, dataset):
    assert len({map_name(each, pattern) for each in DATASETS}) == 5
    assert map_name(f"{dataset}.t", pattern) == f"{map_name(dataset, pattern)}.t"
    assert map_name(f"{dataset}_old.t", pattern) == f"{dataset}_old.t"


def test_a_name_with_its_project_is_a_real_one():
    sql = "SELECT * FROM `my-project`.st_raw_v2.raw_invoices JOIN st_raw_v2.raw_jobs USING (id)"
    assert map_sql(sql, "st_{}_v3") == sql.replace("JOIN st_raw_v2", "JOIN st_raw_v3")


@pytest.mark.parametrize(
    ("sql", "verb", "name"),
    [
        ("CREATE OR REPLACE TABLE st_ref_v2.t AS SELECT 1 AS x", "CREATE", "st_ref_v3.t"),
        ("create table if not exists st_ref_v2.t (x INT64)", "CREATE", "st_ref_v3.t"),
        ("CREATE OR REPLACE VIEW `st_ref_v2.t` AS SELECT 1 AS x", "CREATE", "st_ref_v3.t"),
        ("ALTER TABLE st_ref_v2.t ADD COLUMN y INT64", "ALTER", "st_ref_v3.t"),
        ("INSERT INTO st_ref_v2.t (x) SELECT 1", "INSERT", "st_ref_v3.t"),
        ("INSERT st_ref_v2.t (x) VALUES (1)", "INSERT", "st_ref_v3.t"),
        ("MERGE st_ref_v2.t AS T USING s ON T.x = s.x WHEN MATCHED THEN DELETE", "MERGE", "st_ref_v3.t"),
        ("UPDATE st_ref_v2.t SET x = 1 WHERE TRUE", "UPDATE", "st_ref_v3.t"),
        ("DELETE st_ref_v2.t WHERE TRUE", "DELETE", "st_ref_v3.t"),
        ("TRUNCATE TABLE st_ref_v2.t", "TRUNCATE", "st_ref_v3.t"),
        ("SELECT 1; -- a comment\nDROP TABLE IF EXISTS st_ref_v2.t", "DROP", "st_ref_v3.t"),
        ("DELETE FROM my-project.st_raw_v2.t WHERE TRUE", "DELETE", "my-project.st_raw_v2.t"),
    ],
)
def test_what_a_statement_writes_to(sql, verb, name):
    [write] = prepare_statement(sql, "st_{}_v3").writes
    assert (write.verb, write.name) == (verb, name)


def test_a_select_writes_to_nothing():
    assert (
        prepare_statement("SELECT 'DROP TABLE st_raw_v2.t' AS x, t.`delete` FROM st_raw_v2.t AS t", "{}").writes == ()
    )


@pytest.mark.parametrize(
    ("sql", "labeled"),
    [
        ("CREATE VIEW a.v AS SELECT 1 AS x", f"CREATE VIEW a.v OPTIONS ({LABELS})\nAS SELECT 1 AS x"),
        (
            "CREATE TABLE a.t (x INT64 OPTIONS (description=\"AS (\"), y STRING)\nPARTITION BY TRUNC(x)",
            "CREATE TABLE a.t (x INT64 OPTIONS (description=\"AS (\"), y STRING)\nPARTITION BY TRUNC(x)"
            f"\nOPTIONS ({LABELS})",
        ),
        ("CREATE TABLE a.t (x INT64) OPTIONS (n=1)", f"CREATE TABLE a.t (x INT64) OPTIONS ({LABELS}, n=1)"),
        ("CREATE TEMP TABLE t AS SELECT 1 AS x", "CREATE TEMP TABLE t AS SELECT 1 AS x"),
    ],
)  # fmt: skip
def test_what_a_statement_creates_is_labeled(sql, labeled):
    assert prepare_statement(sql, "{}", LABELS).sql == labeled


@pytest.mark.parametrize("mart", list_marts(), ids=lambda mart: mart.name)
def test_every_mart_is_mapped_labeled_and_seen(mart):
    prepared = prepare_statement(mart.create_sql, "acme_{}", LABELS)
    real = mart.name.replace("st_", "acme_").replace("_v2", "", 1)
    assert prepared.writes == (Write("CREATE", mart.kind, real, surely=True),)
    assert prepared.sql.count(LABELS) == 1
    assert not re.search(r"^[^-]*\bst_\w+_v2\.", prepared.sql, re.MULTILINE)


@pytest.mark.parametrize("pattern", ["st_v3", "st_{}_{}", "st-{}", "{raw}", "3{}", "a b{}", "é{}", "{}; DROP"])
def test_a_pattern_that_cannot_be_a_name(pattern, monkeypatch):
    monkeypatch.setenv("DATASETS", pattern)
    with pytest.raises(UserError, match=r"^DATASETS in the environment or \.env .* such as st_\{\}_v3"):
        settings.load()
