"""GoogleSQL for DuckDB: sqlglot's translation, plus corrections where that translation is silently wrong.

The session must have `SET TimeZone='UTC'`, BigQuery's default time zone. A construct that is neither translated
correctly nor corrected here is refused by name; what DuckDB itself rejects is left to DuckDB. Two cases cannot be seen
in the text: SUM of an INT64 is a HUGEINT there (write CAST(SUM(x) AS INT64)), and NUMERIC / NUMERIC is a DOUBLE (write
CAST(SAFE_DIVIDE(a, b) AS NUMERIC)).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import sqlglot
from sqlglot import exp

# BigQuery's NUMERIC has 38 digits, 9 of them fractional; a bare DECIMAL would be DECIMAL(18, 3).
_NUMERIC = exp.DataType.build("DECIMAL(38, 9)", dialect="duckdb")
_WHOLE_NUMBER = r"\s*[+-]?[0-9]+\s*"
_WHOLE = (exp.Count, exp.CountIf, exp.Sum, exp.Round, exp.Floor, exp.Ceil, exp.Literal, exp.Null)


@lru_cache(maxsize=512)
def to_duckdb(sql: str) -> tuple[str, ...]:
    """Translate a GoogleSQL text into DuckDB statements; parameters `@name` become `$name`.

    Raises ValueError for a text that cannot be parsed, or a construct that gives other rows on DuckDB.
    """
    try:
        return tuple(
            _correct_statement(part).sql("duckdb", copy=False, unsupported_level=sqlglot.ErrorLevel.RAISE)
            for statement in sqlglot.parse(sql, read="bigquery")
            if statement is not None
            for part in _split_alter(statement)
        )
    except (sqlglot.errors.ParseError, sqlglot.errors.UnsupportedError) as error:
        raise ValueError(f"Not GoogleSQL that DuckDB can run: {error}") from error


def _split_alter(statement: exp.Expr) -> Iterator[exp.Expr]:
    """Split an ALTER with several actions: DuckDB takes one per statement."""
    if isinstance(statement, exp.Alter) and len(statement.args["actions"]) > 1:
        for action in statement.args["actions"]:
            part = statement.copy()
            part.set("actions", [action.copy()])
            yield part
    else:
        yield statement


def _correct_statement(statement: exp.Expr) -> exp.Expr:
    """Correct every construct of a statement, in place. Raises ValueError for one that must not reach DuckDB."""
    for node in statement.walk():
        if reason := _find_unsupported(node):
            raise ValueError(f"{reason}: {node.sql('bigquery')}")
    for create in statement.find_all(exp.Create):
        _correct_storage(create)
    for select in list(statement.find_all(exp.Select)):
        _read_json_once(select)
    # Children before their parents: a corrected construct may contain another one.
    for node in reversed(list(statement.walk())):
        parent, key, index = node.parent, node.arg_key, node.index
        corrected = _correct_node(node)
        if parent and key and corrected is not node:
            parent.set(key, corrected, index)
    return statement


def _find_unsupported(node: exp.Expr) -> str | None:  # noqa: PLR0911 (one line per construct reads best)
    """Return why the construct must not reach DuckDB, or None."""
    match node:
        case exp.TimeToStr() | exp.StrToTime() | exp.String() if node.args.get("zone"):
            return "The zone would be ignored; use FORMAT_DATETIME(f, DATETIME(ts, zone))"
        case exp.Bracket() if not isinstance(node.expressions[0], exp.Literal | exp.Neg):
            return "An array index must be a literal"
        case exp.Unnest() if node.args.get("offset"):
            return "WITH OFFSET would count from 1"
        case exp.In() if isinstance(node.args.get("unnest"), exp.Unnest) and node.args["unnest"].find(exp.Parameter):
            return "An array parameter would match nothing; join a small table"
        case exp.Format():
            return "FORMAT would return its pattern; use LPAD or CONCAT"
        case exp.Div() if not (isinstance(node.expression, exp.Literal) and float(node.expression.this)):
            return "A division by zero would be infinity; use SAFE_DIVIDE"
        case exp.Cast() if node.is_type("BIGINT") and type(node) is exp.Cast and not isinstance(node.this, _WHOLE):
            return "CAST AS INT64 would round to even; use CAST(ROUND(x) AS INT64), or SAFE_CAST of a text"
        case exp.DataType() if node.is_type("BIGDECIMAL"):
            return "BIGNUMERIC would lose digits; use NUMERIC"
    return None


def _correct_node(node: exp.Expr) -> exp.Expr:  # noqa: PLR0911
    """Return the expression that means in DuckDB what `node` means in GoogleSQL, or `node` itself."""
    match node:
        case exp.DataType() if node.is_type("DECIMAL") and not node.expressions:
            return _NUMERIC.copy()
        case exp.TryCast() if node.is_type("BIGINT"):
            return _guard_integer_cast(node)
        case exp.TryCast() if node.is_type("BOOLEAN"):
            return _cast_to_bool(node.this)
        case exp.DateTrunc() | exp.DateAdd() | exp.DateSub():
            return exp.cast(node, "DATE")  # a timestamp in DuckDB
        case exp.IntDiv():
            for operand in ("this", "expression"):
                node.set(operand, exp.paren(node.args[operand], copy=False))
            return exp.paren(node, copy=False)
        case exp.TimestampDiff():  # complete units, where DATE_DIFF counts boundaries
            return exp.Anonymous(
                this="DATE_SUB", expressions=[exp.Literal.string(node.args["unit"].name), node.expression, node.this]
            )
        case exp.Extract() if node.name.upper() == "DAYOFWEEK":  # 0 to 6 in DuckDB, 1 to 7 in GoogleSQL
            return exp.paren(exp.Add(this=node, expression=exp.Literal.number(1)), copy=False)
        case exp.JSONExtractArray():  # a cast to a list fails for what is not one, where GoogleSQL has no elements
            elements = exp.Literal.string(_read_path(node) + "[*]")
            return exp.Anonymous(this="JSON_EXTRACT", expressions=[node.this, elements])
        case exp.ParseJSON():  # JSON(x) would write the text anew
            return exp.cast(node.this, "JSON")
        case exp.CountIf():  # a HUGEINT in DuckDB
            return exp.Count(this=exp.If(this=node.this, true=exp.Literal.number(1)))
    return node


def _correct_storage(create: exp.Create) -> None:
    """Say how DuckDB stores a table, and not how BigQuery does: partitions, clusters and OPTIONS."""
    if properties := create.args.get("properties"):
        kept = [p for p in properties.expressions if isinstance(p, exp.TemporaryProperty)]
        create.set("properties", exp.Properties(expressions=kept) if kept else None)
    for constraint in list(create.find_all(exp.ColumnConstraint)):
        if isinstance(constraint.args["kind"], exp.Properties):
            constraint.pop()
    for column in create.find_all(exp.ColumnDef):
        # Of records, what DuckDB chooses by itself takes five times the room and twice the time.
        if column.kind and column.kind.is_type("JSON"):
            column.append("constraints", exp.ColumnConstraint(kind=exp.Var(this="USING COMPRESSION zstd")))


def _read_json_once(select: exp.Select) -> None:
    """Read all paths of a SELECT from a record at once.

    DuckDB parses the record again for each JSON_VALUE, but computes equal expressions once: 30 paths of 100,000 records
    take 0.5 s instead of 3.6 s. An object or array under JSON_VALUE, and JSON's null, are NULL.
    """
    for kind, function in ((exp.JSONExtractScalar, "JSON_VALUE"), (exp.JSONExtract, "JSON_EXTRACT")):
        reads = [
            (node, node.this.copy(), _read_path(node))
            for node in select.find_all(kind)
            if type(node) is kind and node.find_ancestor(exp.Select) is select
        ]
        by_record: dict[exp.Expr, dict[str, None]] = {}
        for _, record, path in reads:
            by_record.setdefault(record, {})[path] = None
        for node, record, path in reads:
            paths = list(by_record[record])
            listed = exp.Array(expressions=[exp.Literal.string(each) for each in paths])
            call = exp.Anonymous(this=function, expressions=[record, listed])
            value: exp.Expr = exp.Bracket(this=call, expressions=[exp.Literal.number(paths.index(path))])
            if kind is exp.JSONExtractScalar:  # JSON_VALUE keeps the quotes of a string
                value = exp.Anonymous(this="JSON_EXTRACT_STRING", expressions=[value, exp.Literal.string("$")])
            node.replace(value)


def _read_path(node: exp.JSONExtract | exp.JSONExtractScalar | exp.JSONExtractArray) -> str:
    return node.expression.sql("duckdb").strip("'")


def _guard_integer_cast(cast: exp.TryCast) -> exp.Expr:
    """Cast whole numbers only: DuckDB casts '1.5' to 2, '1e3' to 1000 and '1_0' to 10, GoogleSQL gives NULL."""
    whole = exp.Anonymous(this="REGEXP_FULL_MATCH", expressions=[cast.this.copy(), exp.Literal.string(_WHOLE_NUMBER)])
    return exp.Case().when(whole, cast)


def _cast_to_bool(text: exp.Expr) -> exp.Expr:
    """Cast 'true' and 'false' only: DuckDB casts 'yes' and '1' to TRUE as well."""
    return (
        exp.Case(this=exp.Lower(this=text))
        .when(exp.Literal.string("true"), exp.true())
        .when(exp.Literal.string("false"), exp.false())
    )
