"""The tenant's saved reports: how each describes itself, the values that its parameters take, and its rows.

Facts from ServiceTitan's published API description and from tenants: a report's id never changes, but its owner can
change its name, parameters and columns at any time; two columns can have one label; a parameter's values are those of a
dynamic value set, and which number means "Job Creation Date" in one differs by report: people write labels, and the
number is looked up each time. A wrong number is no error there, but a report that is silently filtered by another date.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pandas as pd

from stkpi.errors import UserError
from stkpi.servicetitan.client import Client, NotPermitted, RequestFailed, Unavailable

PREFIX = "report:"  # before the report's category and id, such as report:marketing/1001
UNIT_SET = "business-units"
LISTED = 12  # values that a message names
# What the column called Name has, by how the report's category begins.
_NAMED = {"business-unit": "Business Unit", "technician": "Technician"}
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")

Chosen = str | Sequence[str]  # a value by its label, or several of them


@dataclass(frozen=True)
class Parameter:
    """A question that a report asks.

    value_set: the id of the dynamic value set that lists its values; values: by label, where the report lists them
    """

    name: str
    label: str
    data_type: str
    is_array: bool
    is_required: bool
    value_set: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_date(self) -> bool:
        """Whether it is one of the days that the report covers."""
        return self.data_type.startswith("Date")

    @property
    def is_unit(self) -> bool:
        """Whether it takes the ids of business units."""
        return self.value_set == UNIT_SET or "businessunit" in self.name.lower()


@dataclass(frozen=True)
class Description:
    """What a saved report says of itself.

    fields: the names of its columns; columns: what people see above them, each once
    modified_on: when its owner last changed it, as the API writes it
    """

    category: str
    id: str
    name: str
    modified_on: str
    parameters: tuple[Parameter, ...]
    fields: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The report as people type it: `report:marketing/1001`."""
        return f"{PREFIX}{self.category}/{self.id}"

    def find_parameter(self, label: str) -> Parameter | None:
        """Return the parameter of that label or name, in any letter case."""
        wanted = label.strip().lower()
        return next((one for one in self.parameters if wanted in (one.label.lower(), one.name.lower())), None)


class Reports:
    """The saved reports of a tenant; descriptions and value sets are read once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._described: dict[str, Description] = {}
        self._sets: dict[str, dict[str, Any]] = {}

    def list_names(self) -> Iterator[tuple[str, str, str]]:
        """Yield the category, id and name of every saved report. Raises RequestFailed."""
        for category in self._client.list_report_categories():
            for report in self._client.list_reports(str(category["id"])):
                yield str(category["id"]), str(report["id"]), str(report["name"] or "")

    def describe(self, reference: str) -> Description:
        """Return what a report (`report:category/id`, or its name for the id) says of itself.

        Raises UserError where there is no such report.
        """
        if reference not in self._described:
            category, _, id = reference.removeprefix(PREFIX).partition("/")
            if not category or not id:
                raise UserError(f"{reference} names no report: write it as report:marketing/1001, category and id.")
            try:
                id = id if id.isdigit() else self._find_id(category, id)
                given = self._client.describe_report(category, id)
                self._described[reference] = _read_description(category, id, given)
            except NotPermitted as error:
                raise UserError(f"ServiceTitan does not let this API application read reports: {error}.") from error
            except Unavailable as error:
                by_name = f"name it as report:{category}/Leads, with the report's own name"
                raise UserError(f"ServiceTitan has no report {category}/{id}: {by_name}.") from error
            except RequestFailed as error:
                raise UserError(f"ServiceTitan's report {category}/{id} cannot be read now: {error}.") from error
            except (AttributeError, KeyError, TypeError) as error:
                raise UserError(f"ServiceTitan's description of report {category}/{id} has no {error}.") from error
        return self._described[reference]

    def _find_id(self, category: str, name: str) -> str:
        """Return the id of the report that a category lists by that name. Raises UserError and RequestFailed."""
        names = {str(one["name"]): str(one["id"]) for one in self._client.list_reports(category)}
        known = {each.lower(): id for each, id in names.items()}
        if name.lower() not in known:
            raise UserError(f"ServiceTitan's category {category} has no report {name}; it has {_list_words(names)}.")
        return known[name.lower()]

    def list_choices(self, parameter: Parameter) -> Mapping[str, Any]:
        """Return the values that a parameter may have, by their labels; none where it takes any. Raises UserError."""
        if not parameter.value_set:
            return parameter.values
        if parameter.value_set not in self._sets:
            try:
                found = self._client.read_value_set(parameter.value_set)
            except RequestFailed as error:
                raise UserError(f"ServiceTitan does not list the values of {parameter.label}: {error}.") from error
            self._sets[parameter.value_set] = {str(name).strip(): value for value, name in found}
        return self._sets[parameter.value_set]

    def find_filter(self, described: Description, labels: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Return the label of the parameter that chooses one of the dates `labels` ("Filter by"), and those of them
        that it offers; nothing where the report has no such parameter. Raises UserError.
        """
        for parameter in described.parameters:
            if parameter.is_date or parameter.is_unit or not (parameter.value_set or parameter.values):
                continue
            if offered := tuple(label for label in labels if label in self.list_choices(parameter)):
                return parameter.label, offered
        return "", ()

    def choose_values(
        self,
        described: Description,
        first_day: date,
        last_day: date,
        unit_ids: Sequence[int] = (),
        chosen: Mapping[str, Chosen] | None = None,
    ) -> dict[str, Any]:
        """Return the values of a report's parameters by name: its dates in their order (one alone is the last day), its
        unit filter, and what is `chosen`, both by their labels.

        Raises UserError for a label that the report does not have, because it would silently be filtered by something
        else, and for a parameter that must be given and is not.
        """
        dates = [one.name for one in described.parameters if one.is_date]
        days = [first_day, last_day] if len(dates) > 1 else [last_day]
        values: dict[str, Any] = {name: day.isoformat() for name, day in zip(dates, days, strict=False)}
        for label, value in (chosen or {}).items():
            parameter = described.find_parameter(label)
            if parameter is None:
                known = ", ".join(one.label for one in described.parameters)
                raise UserError(f"The report has no parameter {label}, which company.yml names; it has {known}.")
            if value:
                values[parameter.name] = self._find_value(parameter, value)
        for one in described.parameters:
            if one.is_unit and unit_ids:
                values[one.name] = [*unit_ids] if one.is_array else unit_ids[0]
            elif one.is_required and one.name not in values:
                choices = _list_words(self.list_choices(one))
                raise UserError(
                    f"The report wants {one.label}, which is neither a date nor a unit: choose it under `reports` in "
                    f"company.yml{choices and f'; it can be {choices}'}."
                )
        return values

    def run(self, described: Description, values: Mapping[str, Any]) -> list[list[Any]]:
        """Run a report; return its rows, the values of each in the order of its columns.

        values: by the names of its parameters
        Raises UserError where ServiceTitan refuses it or keeps failing.
        """
        try:
            found = self._client.run_report(described.category, described.id, values)
            return [[row[name] for name in described.fields] for row in found]
        except RequestFailed as error:
            raise UserError(
                f"ServiceTitan does not run report {described.category}/{described.id}: {error}."
            ) from error
        except KeyError as error:
            raise UserError(
                f"{described.name} was changed while it ran, and has no {error} any more: run it again."
            ) from None

    def _find_value(self, parameter: Parameter, value: Chosen) -> Any:
        if parameter.is_array:
            return [self._find_one(parameter, one) for one in ([value] if isinstance(value, str) else value)]
        if not isinstance(value, str):
            raise UserError(f"{parameter.label} takes one value, and company.yml gives {len(value)}.")
        return self._find_one(parameter, value)

    def _find_one(self, parameter: Parameter, text: str) -> Any:
        """Return the value that a label or text means."""
        choices = self.list_choices(parameter)
        wanted = f"{parameter.label} cannot be {text}, which company.yml says; it can be "
        if choices:
            if text in choices:
                return choices[text]
            near = {label.lower(): value for label, value in choices.items()}
            if text.lower() not in near:
                raise UserError(f"{wanted}{_list_words(choices)}.")
            return near[text.lower()]
        if parameter.data_type == "Boolean":
            if text.lower() not in (*_YES, *_NO):
                raise UserError(f"{wanted}true or false.")
            return text.lower() in _YES
        if parameter.data_type == "Number":
            if not re.fullmatch(r"-?\d+(\.\d+)?", text):
                raise UserError(f"{wanted}a number.")
            return float(text) if "." in text else int(text)
        return text


def split_by_month(first_day: date, last_day: date) -> list[tuple[date, date]]:
    """Return the days of each calendar month from the first day to the last: a long report times out."""
    found = []
    while first_day <= last_day:
        end = min((pd.Timestamp(first_day) + pd.offsets.MonthEnd(0)).date(), last_day)
        found.append((first_day, end))
        first_day = end + timedelta(days=1)
    return found


def _list_words(choices: Mapping[str, Any]) -> str:
    more = f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    return ", ".join([*choices][:LISTED]) + more


def _read_description(category: str, id: str, given: Mapping[str, Any]) -> Description:
    names = tuple(str(one["name"]) for one in given["fields"])
    labels = [str(one.get("label") or one["name"]).strip() for one in given["fields"]]
    often = Counter(labels)
    named = next((word for prefix, word in _NAMED.items() if category.startswith(prefix)), "Name")
    return Description(
        category=category,
        id=id,
        name=str(given.get("name") or id),
        modified_on=str(given.get("modifiedOn") or ""),
        parameters=tuple(_read_parameter(one) for one in given.get("parameters") or ()),
        fields=names,
        # Of columns with one label, only their names say which is which.
        columns=tuple(
            name if often[label] > 1 else named if label == "Name" else label
            for name, label in zip(names, labels, strict=True)
        ),
    )


def _read_parameter(given: Mapping[str, Any]) -> Parameter:
    accepted = given.get("acceptValues") or {}
    return Parameter(
        name=str(given["name"]),
        label=str(given.get("label") or given["name"]).strip(),
        data_type=str(given.get("dataType") or ""),
        is_array=bool(given.get("isArray")),
        is_required=bool(given.get("isRequired")),
        value_set=str(accepted.get("dynamicSetId") or ""),
        values={str(row[1]).strip(): row[0] for row in accepted.get("values") or ()},
    )
