"""Faults on command: each row of FAULTS is one way in which a reply goes wrong, to prove that the client survives it.

A fault is asked for with `{"path": regex, "fault": name, "times": n, "skip": k, …arguments}`: it meets the requests
whose path the regex finds, after the first `skip` of them, `times` times (without it: until it is cleared).
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import orjson

Args = dict[str, Any]
Page = dict[str, Any]


@dataclass
class Request:
    method: str
    path: str
    params: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False


Next = Callable[[Request], Reply]
"""What would answer the request if there were no fault."""


def _status(args: Args, request: Request, proceed: Next) -> Reply:
    """Any status with a problem body: `status`, `title`, `headers`."""
    status = args.get("status", 500)
    body = {"type": "about:blank", "title": args.get("title", "Something went wrong."), "status": status}
    body |= {"traceId": "fault", "errors": {}, "data": {}}
    return Reply(status, orjson.dumps(body), "application/problem+json", args.get("headers", {}))


def _html(args: Args, request: Request, proceed: Next) -> Reply:
    return Reply(args.get("status", 200), b"<html><body><h1>Please stand by</h1></body></html>", "text/html")


def _empty(args: Args, request: Request, proceed: Next) -> Reply:
    return Reply(200, b"")


def _timeout(args: Args, request: Request, proceed: Next) -> Reply:
    """The reply comes only after `seconds`."""
    time.sleep(args["seconds"])
    return proceed(request)


def _reset(args: Args, request: Request, proceed: Next) -> Reply:
    """The connection is reset in mid-body."""
    return replace(proceed(request), reset=True)


def _cap_page_size(args: Args, request: Request, proceed: Next) -> Reply:
    """The server gives pages of `size` rows at most, whatever was asked."""
    asked = int(request.params.get("pageSize", ["50"])[0])
    request.params["pageSize"] = [str(min(asked, args["size"]))]
    return proceed(request)


def _repeat_page(args: Args, request: Request, proceed: Next) -> Reply:
    """The page before the asked one comes, under the number of the asked one."""
    page = int(request.params.get("page", ["1"])[0])
    request.params["page"] = [str(max(page - 1, 1))]
    reply = proceed(request)
    return replace(reply, body=orjson.dumps(orjson.loads(reply.body) | {"page": page}))


def _on_page(change: Callable[[Args, Request, Page], Any]) -> Callable[[Args, Request, Next], Reply]:
    """A fault that changes the decoded page of a good reply."""

    def fault(args: Args, request: Request, proceed: Next) -> Reply:
        reply = proceed(request)
        if reply.status != HTTPStatus.OK:
            return reply
        page = orjson.loads(reply.body)
        change(args, request, page)
        return replace(reply, body=orjson.dumps(page))

    return fault


def _bad_total(args: Args, request: Request, page: Page) -> None:
    page["totalCount"] = args["value"]


def _has_more_string(args: Args, request: Request, page: Page) -> None:
    page["hasMore"] = str(page["hasMore"]).lower()


def _repeat_token(args: Args, request: Request, page: Page) -> None:
    page["continueFrom"] = request.params.get("from", [""])[0]
    page["hasMore"] = True


def _set(row: Page, path: str, args: Args) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        row = row[parent]
    if args.get("drop"):
        row.pop(name, None)
    else:
        # `raw` is JSON text that no encoder would write, such as NaN.
        row[name] = orjson.Fragment(args["raw"]) if "raw" in args else args["value"]


def _rows(args: Args, page: Page) -> list[Page]:
    if "ids" in args:
        return [row for row in page["data"] if row.get("id") in args["ids"]]
    return page["data"][: args.get("rows", 1)]


def _mangle(args: Args, request: Request, page: Page) -> None:
    """In the rows with `ids`, or the first `rows` (1), the field at `field` becomes `value` or `raw`, or is dropped."""
    for row in _rows(args, page):
        _set(row, args["field"], args)


def _duplicate_row(args: Args, request: Request, page: Page) -> None:
    """The chosen rows come twice in the page, the copy with the fields of `change`."""
    page["data"] += [row | args.get("change", {}) for row in _rows(args, page)]


FAULTS: dict[str, Callable[[Args, Request, Next], Reply]] = {
    "status": _status,
    "html": _html,
    "empty": _empty,
    "timeout": _timeout,
    "reset": _reset,
    "cap_page_size": _cap_page_size,
    "repeat_page": _repeat_page,
    "no_data": _on_page(lambda args, request, page: page.pop("data")),
    "data_null": _on_page(lambda args, request, page: page.update(data=None)),
    "empty_page": _on_page(lambda args, request, page: page.update(data=[], hasMore=True)),
    "bad_total": _on_page(_bad_total),
    "has_more_missing": _on_page(lambda args, request, page: page.pop("hasMore")),
    "has_more_string": _on_page(_has_more_string),
    "repeat_token": _on_page(_repeat_token),
    "null_token": _on_page(lambda args, request, page: page.update(continueFrom=None)),
    "mangle": _on_page(_mangle),
    "duplicate_row": _on_page(_duplicate_row),
}


@dataclass
class Order:
    """A fault that was asked for, with how often it is still to be skipped and done (None: for ever)."""

    path: re.Pattern[str]
    fault: str
    args: Args
    skip: int = 0
    times: int | None = None

    def due(self, path: str) -> bool:
        """Whether the fault strikes this request; counts it."""
        if not self.path.search(path) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def order(asked: dict[str, Any], names: Iterable[str]) -> Order:
    """A fault as asked for over HTTP. Raises ValueError for one that is none of `names`, or a path that is no regex."""
    args = dict(asked)
    fault = args.pop("fault", None)
    if fault not in names:
        raise ValueError(f"There is no fault '{fault}'; there are {', '.join(sorted(names))}.")
    try:
        path = re.compile(args.pop("path", ""))
    except re.error as error:
        raise ValueError(f"The path is not a regular expression: {error}.") from None
    return Order(path, fault, skip=args.pop("skip", 0), times=args.pop("times", None), args=args)
