"""Which rows a list request asks for: the query's parameters against the columns of the store."""

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from sandbox.resources import RESOURCES, Filter, Kind
from sandbox.store import Store, get_value, to_dates, to_keys

Params = dict[str, list[str]]
"""A query string's parameters, each with all its values."""

MAX_IDS = 50
_ACTIVE = {
    "active": {"true": True, "false": False, "any": None},
    "activeState": {"activeonly": True, "inactiveonly": False, "all": None},
}
_COMPARERS = {
    "equals": operator.eq,
    "notequals": operator.ne,
    "greater": operator.gt,
    "less": operator.lt,
    "equal": operator.eq,
    "notequal": operator.ne,
    "greaterthan": operator.gt,
    "greaterthanorequal": operator.ge,
    "lessthan": operator.lt,
    "lessthanorequal": operator.le,
}
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,7})?)?(Z|[+-]\d\d:?\d\d)?)?$", re.IGNORECASE)


class BadParameter(ValueError):
    """A parameter whose value cannot be read; the API answers 400 and names it."""

    def __init__(self, name: str, value: str) -> None:
        super().__init__(f"The value '{value}' is not valid.")
        self.name = name


def _parse_date(text: str) -> str:
    # A "+" that was not percent-encoded arrives as a space.
    text = re.sub(r" (\d\d:?\d\d)$", r"+\1", text.strip())
    if not _DATE.match(text):
        raise ValueError(text)
    datetime.fromisoformat(text)
    return text.upper()


def _parse_int(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise ValueError(text)
    return int(text)


def _parse_bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_READ: dict[Kind, Callable[[str], Any]] = {
    "date": _parse_date,
    "int": _parse_int,
    "text": str,
    "bool": _parse_bool,
    "number": float,
}


def parse_value(name: str, text: str, kind: Kind) -> Any:
    """Read a parameter's text as a value of its kind. Raises BadParameter."""
    try:
        return _READ[kind](text)
    except (ValueError, KeyError):
        raise BadParameter(name, text) from None


def parse_moment(name: str, text: str) -> np.datetime64:
    """Read a date or timestamp (UTC unless it has an offset). Raises BadParameter."""
    return to_dates([parse_value(name, text, "date")])[0]


def _parse_values(name: str, texts: Iterable[str], test: Filter) -> list[Any]:
    plural = test.test in ("among", "has")
    parts = [part for text in texts for part in (text.split(",") if plural else [text]) if part != ""]
    if name == "ids" and len(parts) > MAX_IDS:
        raise BadParameter(name, f"{len(parts)} ids, at most {MAX_IDS} are allowed")
    return [parse_value(name, part, test.kind) for part in parts]


def _mask_by_column(store: Store, resource: str, test: Filter, values: list[Any]) -> np.ndarray:
    column = store.column(resource, test.path)
    if test.kind != "date":
        return np.isin(column, to_keys(values))
    value = to_dates(values)[0]
    compare = {"from": np.greater_equal, "before": np.less, "until": np.less_equal}[test.test]
    return compare(column, value)


def _get_leaves(record: Any, path: str) -> list[Any]:
    """Return the values at a path of which one step is a list."""
    head, _, rest = path.partition(".")
    if isinstance(record.get(head), dict):
        return _get_leaves(record[head], rest)
    return [item[rest] if rest else item for item in record.get(head) or []]


def _count_seconds(duration: str) -> int:
    hours, minutes, seconds = map(int, duration.split(":"))
    return (hours * 60 + minutes) * 60 + seconds


def _read_comparer(name: str, params: Params) -> Callable[[float, float], bool]:
    text = next(iter(params.get(name, [])), "equals")
    try:
        return _COMPARERS[text.lower()]
    except KeyError:
        raise BadParameter(name, text) from None


def _make_record_test(test: Filter, values: list[Any]) -> Callable[[dict[str, Any]], bool]:
    """Make a test on the decoded record, for the parameters too rare for a column."""
    if test.test == "has":
        wanted = {str(v).casefold() for v in values}
        return lambda record: any(str(v).casefold() in wanted for v in _get_leaves(record, test.path))
    value = values[0]
    if test.test in ("since", "ended"):
        is_in = operator.ge if test.test == "since" else operator.lt
        return lambda record: any(is_in(day[:10], value[:10]) for day in _get_leaves(record, test.path))
    if test.test == "lasts":
        return lambda record: _count_seconds(get_value(record, test.path)) >= value
    if test.test == "contains":
        return lambda record: value.casefold() in (get_value(record, test.path) or "").casefold()
    compare = {
        "from": lambda x: x >= value,
        "until": lambda x: x <= value,
        "is": lambda x: x == value,
        "compared": lambda x: values[1](x, value),
    }[test.test]
    return lambda record: (x := get_value(record, test.path)) is not None and compare(float(x))


def _mask_rows(store: Store, resource: str, requested: list[tuple[Filter, list[Any]]]) -> np.ndarray:
    """Return True for each present row that passes all the filters."""
    mask = store.present(resource)
    for test, values in requested:
        if test.has_column:
            mask &= _mask_by_column(store, resource, test, values)
    tests = [_make_record_test(test, values) for test, values in requested if not test.has_column]
    if tests:
        rows = np.flatnonzero(mask)
        records = store.get_serialized(resource, rows.tolist())
        mask[rows] = [all(test(record) for test in tests) for record in map(orjson.loads, records)]
    return mask


def parse_active(params: Params, name: str = "active") -> bool | None:
    """Tell whether active rows are requested, inactive ones, or both (None). Raises BadParameter."""
    text = next(iter(params.get(name, [])), "") or next(iter(_ACTIVE[name]))
    try:
        return _ACTIVE[name][text.lower()]
    except KeyError:
        raise BadParameter(name, text) from None


def _sort_rows(store: Store, resource: str, rows: np.ndarray, params: Params) -> np.ndarray:
    spec, text = RESOURCES[resource], next(iter(params.get("sort", [])), "").strip()
    described, descending = spec.sort, text.startswith("-")
    if not text and params.get("orderBy"):
        text, descending = params["orderBy"][0], params.get("orderByDirection", [""])[0].lower().startswith("desc")
        described = spec.order_by
    name = text.lstrip("+- ")
    if not name or not described:
        return rows
    sortable = {path.rpartition(".")[2].lower(): path for path in described}
    if name.lower() not in sortable:
        raise BadParameter("sort", text)
    keys = store.column(resource, sortable[name.lower()])[rows]
    # Ties keep the order of the ids in both directions.
    keys = -keys.view(np.int64) if descending else keys
    return rows[np.argsort(keys, kind="stable")]


def select_rows(store: Store, resource: str, params: Params) -> np.ndarray:
    """Return the row handles that a list request asks for, in its order; like the API, ignore unknown parameters.

    Raises BadParameter for a value that cannot be read.
    """
    spec = RESOURCES[resource]
    groups: dict[Any, list[tuple[Filter, list[Any]]]] = defaultdict(list)
    for name, texts in params.items():
        test = spec.filters.get(name)
        if test and (values := _parse_values(name, texts, test)):
            if test.test == "compared":
                values.append(_read_comparer(f"{name.partition('.')[0]}.Comparer", params))
            groups[test.via].append((test, values))
    mask = _mask_rows(store, resource, groups.pop(None, []))
    # Filters on one other resource must hold for one and the same of its rows.
    for (other, key, own), requested in groups.items():
        keys = store.column(other, key)[_mask_rows(store, other, requested)]
        mask &= np.isin(store.column(resource, own), keys)
    if spec.active and (wanted := parse_active(params, spec.active)) is not None:
        mask &= store.column(resource, spec.active_path) == wanted
    return _sort_rows(store, resource, np.flatnonzero(mask), params)
