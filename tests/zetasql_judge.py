"""GoogleSQL's own analyzer and reference implementation (ZetaSQL, as WebAssembly), for the tests of the SQL.

Compiling the module takes some 25 s and 1.1 GB. It's done once: the machine code is kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tzdata
import wasmtime
from google.protobuf.message import Message
from zetasql.wasi import get_wasm_path
from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto import options_pb2, simple_catalog_pb2
from zetasql.wasi._pb2.zetasql.public import options_pb2 as public_options
from zetasql.wasi._pb2.zetasql.public import type_pb2, value_pb2

from stkpi import company
from stkpi.ingest import load, state
from stkpi.kpis.definition import choose_definitions
from stkpi.marts import build as marts
from stkpi.servicetitan import entities
from stkpi.warehouse.schema import create_sql

Columns = tuple[tuple[str, str], ...]  # name, type
Row = dict[str, Any]

LANDING = "st_stage_v2.landing"
# The company's CSV files as tables of text.
OWNED: dict[str, Columns] = {
    f"st_ref_v2.{table}": tuple((column, "STRING") for column in company.COLUMNS[file])
    for table, file in marts.OWNED.items()
}

# Type names as DDL writes them, for ZetaSQL's kinds.
_KINDS = {
    "INT64": type_pb2.TYPE_INT64,
    "STRING": type_pb2.TYPE_STRING,
    "NUMERIC": type_pb2.TYPE_NUMERIC,
    "FLOAT64": type_pb2.TYPE_DOUBLE,
    "BOOL": type_pb2.TYPE_BOOL,
    "TIMESTAMP": type_pb2.TYPE_TIMESTAMP,
    "DATE": type_pb2.TYPE_DATE,
    "JSON": type_pb2.TYPE_JSON,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_VALUE_FIELDS = {
    "INT64": "int64_value",
    "STRING": "string_value",
    "NUMERIC": "numeric_value",
    "FLOAT64": "double_value",
    "BOOL": "bool_value",
    "TIMESTAMP": "timestamp_value",
    "DATE": "date_value",
    "JSON": "json_value",
}
_EPOCH = dt.date(1970, 1, 1)


class Rejected(Exception):
    """GoogleSQL does not accept the statement, or it fails on the given rows."""


class Judge:
    """The analyzer with a catalog (`tables`) that grows by `declare`. Tables are named `dataset.table`."""

    def __init__(self) -> None:
        self._module = _Module()
        self.tables: dict[str, Columns] = {}
        self._options = _analyzer_options(self._module)
        self._empty = self._registered({})
        self._catalog: int | None = None

    def declare(self, table: str, columns: Columns) -> None:
        """Put a table into the catalog."""
        self.tables[table] = columns
        self._catalog = None

    def declare_ddl(self, sql: str) -> None:
        """Put the table of a CREATE TABLE statement into the catalog."""
        create = self._analyzed(sql, {}, self._empty).resolved_create_statement_node
        table = create.resolved_create_table_stmt_base_node.resolved_create_table_stmt_node.parent
        columns = tuple((column.name, _NAMES[column.type.type_kind]) for column in table.column_definition_list)
        self.declare(".".join(table.parent.name_path), columns)

    def analyze(self, sql: str, parameters: Mapping[str, str] | None = None) -> Columns:
        """The columns that a statement yields (none where it yields no rows).

        parameters: the type of each named parameter
        Raises Rejected with GoogleSQL's own words.
        """
        if self._catalog is None:
            self._catalog = self._registered(self.tables)
        statement = self._analyzed(sql, parameters or {}, self._catalog)
        query = statement.resolved_query_stmt_node
        return tuple((output.name, _NAMES[output.column.type.type_kind]) for output in query.output_column_list)

    def evaluate(
        self, sql: str, tables: Mapping[str, Sequence[Row]], parameters: Mapping[str, tuple[str, Any]] | None = None
    ) -> list[Row]:
        """The rows of a SELECT over the given rows of declared tables; a column that a row lacks is NULL.

        parameters: type and value of each named parameter
        Raises Rejected.
        """
        parameters = parameters or {}
        # Contents can be given to the catalog's own tables only, not to those of a dataset.
        flat = {}
        for table, declared in self.tables.items():
            sql, mentions = re.subn(rf"\b{re.escape(table)}\b", table.replace(".", "__"), sql)
            if mentions:
                flat[table.replace(".", "__")] = declared
        request = service.EvaluateQueryRequest(
            sql=sql,
            options=self._with_parameters({name: kind for name, (kind, _) in parameters.items()}),
            simple_catalog=_catalog(flat, self._options.language_options),
        )
        for name, (kind, value) in parameters.items():
            request.params.add(name=name, value=_encoded(value, kind))
        given = {table.replace(".", "__"): rows for table, rows in tables.items()}
        for table, declared in flat.items():
            data = request.table_content[table].table_data
            data.SetInParent()  # a table without rows has contents, too
            for row in given.get(table, ()):
                data.row.add(cell=[_encoded(row.get(name), kind) for name, kind in declared])
        response = self._module.call("EvaluateQuery", request, service.EvaluateQueryResponse)
        columns = [(column.name, _NAMES[column.type.type_kind]) for column in response.prepared.columns]
        return [
            {name: _decoded(cell, kind) for (name, kind), cell in zip(columns, row.cell, strict=True)}
            for row in response.content.table_data.row
        ]

    def _registered(self, tables: Mapping[str, Columns]) -> int:
        catalog = _catalog(tables, self._options.language_options)
        request = service.RegisterCatalogRequest(simple_catalog=catalog)
        return self._module.call("RegisterCatalog", request, service.RegisterResponse).registered_id

    def _analyzed(self, sql: str, parameters: Mapping[str, str], catalog: int) -> Any:
        request = service.AnalyzeRequest(
            sql_statement=sql, options=self._with_parameters(parameters), registered_catalog_id=catalog
        )
        return self._module.call("Analyze", request, service.AnalyzeResponse).resolved_statement

    def _with_parameters(self, parameters: Mapping[str, str]) -> options_pb2.AnalyzerOptionsProto:
        options = options_pb2.AnalyzerOptionsProto()
        options.CopyFrom(self._options)
        for name, kind in parameters.items():
            options.query_parameters.add(name=name, type=_type(kind))
        return options


def of_this_project() -> Judge:
    """The analyzer, knowing the raw tables by their DDL and every mart by the analysis of its SELECT."""
    judge = Judge()
    for entity in entities.ENTITIES.values():
        judge.declare_ddl(create_sql(load.define_raw_table(entity)))
    for table, columns in OWNED.items():
        judge.declare(table, columns)
    judge.declare(LANDING, tuple((field.name, field.type) for field in entities.LANDING))
    for table in state.TABLES:
        judge.declare_ddl(create_sql(table))
    for mart in marts.list_marts(choose_definitions({})):
        judge.declare(mart.name, judge.analyze(mart.sql, marts.PARAMETERS))
    return judge


class _Module:
    """The WebAssembly module: protobuf in, protobuf out. Copies whole blocks, as the package's own client does not."""

    def __init__(self) -> None:
        config = wasmtime.Config()
        config.shared_memory = True
        engine = wasmtime.Engine(config)
        self._store = wasmtime.Store(engine)
        wasi = wasmtime.WasiConfig()
        wasi.preopen_dir(str(Path(tzdata.__file__).parent / "zoneinfo"), "/usr/share/zoneinfo")
        self._store.set_wasi(wasi)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        self._exports = linker.instantiate(self._store, _compiled(engine)).exports(self._store)
        self._exports["_initialize"](self._store)

    def call(self, method: str, request: Message, response: type[Message]) -> Any:
        """Raises Rejected where the service answers with an error."""
        data = request.SerializeToString()
        start = self._function("wasm_malloc", len(data))
        size = self._function("wasm_malloc", 4)
        ctypes.memmove(self._address(start), data, len(data))
        answer = self._function(f"ZetaSqlLocalService_{method}", start, len(data), size)
        if answer == 0:
            text = self._read(self._function("wasm_get_last_error"), self._function("wasm_get_last_error_size"))
            raise Rejected(text.decode())
        content = self._read(answer, int.from_bytes(self._read(size, 4), "little"))
        for block in (start, size, answer):
            self._function("wasm_free", block)
        return response.FromString(content)

    def _function(self, name: str, *arguments: int) -> Any:
        return self._exports[name](self._store, *arguments)

    def _address(self, offset: int) -> int:
        # The memory may have moved since the last call: ask each time.
        return ctypes.addressof(self._exports["memory"].data_ptr().contents) + offset

    def _read(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self._address(offset), size)


def _compiled(engine: wasmtime.Engine) -> wasmtime.Module:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stkpi-tests"
    path = cache / f"zetasql-{version('zetasql')}-wasmtime-{version('wasmtime')}.bin"
    if not path.exists():
        # Machine code that will be run: nobody else may write it.
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_bytes(wasmtime.Module.from_file(engine, str(get_wasm_path())).serialize())
        beside.replace(path)
    return wasmtime.Module.deserialize_file(engine, str(path))


def _analyzer_options(module: _Module) -> options_pb2.AnalyzerOptionsProto:
    """What BigQuery has: all released features but comparisons of JSON."""
    language = module.call(
        "GetLanguageOptions", service.LanguageOptionsRequest(maximum_features=True), options_pb2.LanguageOptionsProto
    )
    language.product_mode = public_options.PRODUCT_EXTERNAL
    del language.supported_statement_kinds[:]
    features = set(language.enabled_language_features)
    features.discard(public_options.FEATURE_JSON_TYPE_COMPARISON)
    features.add(public_options.FEATURE_ALTER_COLUMN_SET_DATA_TYPE)
    del language.enabled_language_features[:]
    language.enabled_language_features.extend(sorted(features))
    return options_pb2.AnalyzerOptionsProto(language_options=language, default_timezone="UTC")


def _catalog(tables: Mapping[str, Columns], language: Any) -> simple_catalog_pb2.SimpleCatalogProto:
    catalog = simple_catalog_pb2.SimpleCatalogProto(name="project")
    catalog.builtin_function_options.language_options.CopyFrom(language)
    datasets: dict[str, Any] = {}
    for number, (full_name, columns) in enumerate(tables.items(), 1):
        dataset, _, name = full_name.rpartition(".")
        if dataset and dataset not in datasets:
            datasets[dataset] = catalog.catalog.add(name=dataset)
        table = datasets.get(dataset, catalog).table.add(name=name, serialization_id=number)
        for column, kind in columns:
            table.column.add(name=column, type=_type(kind))
    return catalog


def _type(kind: str) -> type_pb2.TypeProto:
    return type_pb2.TypeProto(type_kind=_KINDS[kind])


def _encoded(value: Any, kind: str) -> value_pb2.ValueProto:
    if value is None:
        return value_pb2.ValueProto()
    if kind == "DATE":
        value = (value - _EPOCH).days
    elif kind == "NUMERIC":  # billionths, little-endian two's complement
        value = int(Decimal(value).scaleb(9)).to_bytes(16, "little", signed=True)
    return value_pb2.ValueProto(**{_VALUE_FIELDS[kind]: value})


def _decoded(cell: value_pb2.ValueProto, kind: str) -> Any:
    if cell.WhichOneof("value") is None:
        return None
    value = getattr(cell, _VALUE_FIELDS[kind])
    match kind:
        case "DATE":
            return _EPOCH + dt.timedelta(days=value)
        case "TIMESTAMP":
            return value.ToDatetime(dt.UTC)
        case "NUMERIC":
            return Decimal(int.from_bytes(value, "little", signed=True)).scaleb(-9)
    return value
