"""Each rewrite of dialect.py, proved by a literal answer from DuckDB. The answers are BigQuery's."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import duckdb
import pytest

from stkpi.warehouse.dialect import to_duckdb

D = dt.date


@pytest.fixture(scope="module")
def session():
    connection = duckdb.connect()
    connection.execute("SET TimeZone='UTC'")
    return connection


def run(session, sql, parameters=None):
    for statement in to_duckdb(sql):
        result = session.execute(statement, parameters or {})
    return result.fetchall()


def value(session, expression, parameters=None):
    [row] = run(session, f"SELECT {expression}", parameters)
    return row[0] if len(row) == 1 else row


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # NUMERIC keeps nine decimals and 29 digits before them.
        ("CAST('1.123456789' AS NUMERIC)", Decimal("1.123456789")),
        ("CAST('12345678901234567890' AS NUMERIC)", Decimal("12345678901234567890")),
        ("CAST(SAFE_DIVIDE(31 - 0, 77 + 1) AS NUMERIC)", Decimal("0.397435897")),
        ("SAFE_DIVIDE(1, 0)", None),
        ("SAFE_CAST('no money' AS NUMERIC)", None),
        # Whole numbers and booleans are taken from text as strictly as GoogleSQL takes them.
        ("SAFE_CAST('42' AS INT64)", 42),
        ("SAFE_CAST('1.5' AS INT64)", None),
        ("SAFE_CAST('1e3' AS INT64)", None),
        ("SAFE_CAST('99999999999999999999' AS INT64)", None),
        ("SAFE_CAST('True' AS BOOL)", True),
        ("SAFE_CAST('false' AS BOOL)", False),
        ("SAFE_CAST('yes' AS BOOL)", None),
        ("CAST(ROUND(2.5) AS INT64)", 3),
        # Dates stay dates; 2025-08-18 is a Monday.
        ("DATE_TRUNC(DATE '2025-08-24', WEEK(MONDAY))", D(2025, 8, 18)),
        ("DATE_TRUNC(DATE '2025-08-24', WEEK)", D(2025, 8, 24)),
        ("DATE_ADD(DATE_TRUNC(DATE '2025-08-24', WEEK(MONDAY)), INTERVAL 6 DAY)", D(2025, 8, 24)),
        ("DATE_ADD(DATE '2024-02-29', INTERVAL 1 YEAR)", D(2025, 2, 28)),
        ("DATE_SUB(DATE '2025-03-01', INTERVAL 1 + 1 DAY)", D(2025, 2, 27)),
        ("DATE_DIFF(DATE '2025-08-18', DATE '2025-08-17', WEEK(MONDAY))", 1),
        # A sale at 18:02 in Arizona is on the next day in UTC.
        ("DATE(TIMESTAMP '2025-08-19 01:02:00+00', 'America/Phoenix')", D(2025, 8, 18)),
        ("DATE(TIMESTAMP '2025-08-19 01:02:00+00')", D(2025, 8, 19)),
        ("SAFE_CAST('2025-08-18T18:02:00-07:00' AS TIMESTAMP) = TIMESTAMP '2025-08-19 01:02:00+00'", True),
        ("EXTRACT(DAYOFWEEK FROM DATE '2025-08-17') * 10", 10),
        # Differences are complete units, and DIV truncates the whole expression.
        ("TIMESTAMP_DIFF(TIMESTAMP '2025-01-01 02:29:00', TIMESTAMP '2025-01-01 00:30:00', HOUR)", 1),
        ("DIV(9 - 2, 3)", 2),
        ("DIV(-7, 2)", -3),
        ("2 * DIV(7, 2)", 6),
        # A correction within a correction.
        ("DIV(DIV(9 - 2, 3) + 4, 4)", 1),
        ("DATE_ADD(DATE '2025-08-18', INTERVAL DIV(9 - 2, 3) DAY)", D(2025, 8, 20)),
        ("COUNTIF(SAFE_CAST('yes' AS BOOL))", 0),
        ("SAFE_CAST(CAST(CAST('7.123456789' AS NUMERIC) AS STRING) AS INT64)", None),
        ("CAST(DATE_ADD(DATE '2025-08-18', INTERVAL 1 DAY) AS STRING)", "2025-08-19"),
        ("GREATEST(1, NULL)", None),
        ("REGEXP_REPLACE('01.1234567Z', r'(\\.[0-9]{6})[0-9]+', r'\\1')", "01.123456Z"),
    ],
)
def test_answer(session, expression, expected):
    assert value(session, expression) == expected


RECORD = r"""JSON '{"id": 7, "name": "O\\"Neil é", "gone": null, "on": true, "price": 1.50,
  "job": {"id": 9}, "tags": [1, 2]}'"""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("JSON_VALUE(r, '$.id')", "7"),
        ("JSON_VALUE(r, '$.name')", 'O"Neil é'),
        ("JSON_VALUE(r, '$.gone')", None),
        ("JSON_VALUE(r, '$.absent')", None),
        ("JSON_VALUE(r, '$.gone.id')", None),
        ("JSON_VALUE(r, '$.on')", "true"),
        ("JSON_VALUE(r, '$.price')", "1.5"),
        ("JSON_VALUE(r, '$.job.id')", "9"),
        ("JSON_VALUE(r, '$.job')", None),
        ("JSON_VALUE(r, '$.tags')", None),
        ("JSON_VALUE(r, '$.id') = '7' AND JSON_VALUE(r, '$.job.id') = '9'", True),
        ("JSON_QUERY(r, '$.tags')", "[1,2]"),
        ("JSON_QUERY(r, '$.absent')", None),
        ("JSON_QUERY(r, '$.gone')", "null"),
    ],
)
def test_json(session, expression, expected):
    assert run(session, f"SELECT {expression} FROM (SELECT {RECORD} AS r)") == [(expected,)]


def test_json_of_two_records_is_not_mixed_up(session):
    sql = """
    SELECT JSON_VALUE(a, '$.x'), JSON_VALUE(b, '$.x'), JSON_VALUE(b, '$.y')
    FROM (SELECT JSON '{"x": 1}' AS a, JSON '{"x": 2, "y": 3}' AS b)
    WHERE JSON_VALUE(a, '$.x') IN (SELECT JSON_VALUE(c, '$.k') FROM (SELECT JSON '{"k": "1"}' AS c))
    """
    assert run(session, sql) == [("1", "2", "3")]


@pytest.mark.parametrize(
    ("items", "expected"),
    [('[{"id": 1}, {"id": "2"}, {}]', [("1",), ("2",), (None,)]), ("[]", []), ("null", []), ("{}", [])],
)
def test_json_array(session, items, expected):
    sql = f"SELECT JSON_VALUE(i, '$.id') FROM (SELECT JSON '{items}' AS t), UNNEST(JSON_QUERY_ARRAY(t)) AS i"
    assert sorted(run(session, sql), key=str) == sorted(expected, key=str)


def test_parameters(session):
    zone = {"time_zone": "America/Phoenix"}
    assert value(session, "DATE(TIMESTAMP '2025-08-19 01:02:00+00', @time_zone)", zone) == D(2025, 8, 18)
    days = {"first": D(2025, 8, 17), "last": D(2025, 8, 18)}
    sql = "SELECT day FROM UNNEST(GENERATE_DATE_ARRAY(@first, @last)) AS day ORDER BY day"
    assert run(session, sql, days) == [(D(2025, 8, 17),), (D(2025, 8, 18),)]


def test_counts_are_64_bit(session):
    """A HUGEINT would reach pandas as a float."""
    sql = "SELECT COUNTIF(x > 1), CAST(SUM(x) AS INT64), COUNT(*) FROM UNNEST([1, 2, 3]) AS x"
    [statement] = to_duckdb(sql)
    result = session.execute(statement)
    assert [str(column[1]) for column in result.description] == ["BIGINT"] * 3
    assert result.fetchall() == [(2, 6, 3)]


def test_ddl_and_dml(session):
    sql = """
    CREATE SCHEMA IF NOT EXISTS shop OPTIONS (location = 'US');
    CREATE TABLE IF NOT EXISTS shop.sale (
      id INT64 NOT NULL OPTIONS (description = 'key'), amount NUMERIC, at TIMESTAMP
    ) PARTITION BY TIMESTAMP_TRUNC(at, MONTH) CLUSTER BY id OPTIONS (description = 'sales');
    ALTER TABLE shop.sale ADD COLUMN IF NOT EXISTS note STRING, ADD COLUMN IF NOT EXISTS tax NUMERIC;
    INSERT INTO shop.sale (id, amount) VALUES (1, 10), (2, 20), (3, 30);
    MERGE shop.sale AS t
    USING (
      SELECT id, amount FROM (SELECT 2 AS id, 21 AS amount UNION ALL SELECT 2, 22 UNION ALL SELECT 4, 40)
      QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY amount DESC) = 1
    ) AS s
    ON t.id = s.id
    WHEN MATCHED AND t.amount != s.amount THEN UPDATE SET amount = s.amount
    WHEN NOT MATCHED THEN INSERT (id, amount) VALUES (s.id, s.amount);
    UPDATE shop.sale SET tax = amount WHERE id = 1;
    DELETE FROM shop.sale WHERE id = 3;
    CREATE OR REPLACE TABLE shop.total PARTITION BY day CLUSTER BY day OPTIONS (description = 'x') AS
    SELECT DATE '2025-08-18' AS day, SUM(amount) AS amount, SUM(tax) AS tax FROM shop.sale;
    CREATE OR REPLACE VIEW shop.total_view OPTIONS (description = 'x') AS SELECT * FROM shop.total;
    SELECT day, amount, tax FROM shop.total_view
    """
    assert run(session, sql) == [(D(2025, 8, 18), Decimal(72), Decimal(10))]
    assert session.execute("SELECT typeof(tax) FROM shop.sale LIMIT 1").fetchone() == ("DECIMAL(38,9)",)


@pytest.mark.parametrize(
    "expression",
    [
        "FORMAT_TIMESTAMP('%F', ts, 'America/Phoenix')",
        "PARSE_TIMESTAMP('%F', x, 'America/Phoenix')",
        "STRING(ts, 'America/Phoenix')",
        "array_[OFFSET(i)]",
        "x IN UNNEST(@names)",
        "FORMAT('%05d', x)",
        "x / y",
        "CAST(x AS INT64)",
        "CAST(x AS BIGNUMERIC)",
        "(SELECT AS STRUCT 1 FROM UNNEST(array_) AS e WITH OFFSET)",
    ],
)
def test_refused(expression):
    with pytest.raises(ValueError, match=r".+: .+"):
        to_duckdb(f"SELECT {expression} FROM t")


def test_a_text_that_is_not_sql_is_refused():
    with pytest.raises(ValueError, match="Not GoogleSQL"):
        to_duckdb("SELECT FROM WHERE (")
