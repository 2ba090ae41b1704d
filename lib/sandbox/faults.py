"""Faults on demand: each row of FAULTS is one way in which a reply goes wrong, to prove that the client survives it.

A fault is ordered with `{"path": regex, "fault": name, "times": n, "skip": k, …arguments}`: it hits the requests
whose path matches the regex, after the first `skip` of them, `times` times (without it: until it is cleared).
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
    pause: float = 0  # seconds before each byte of the body


Next = Callable[[Request], Reply]
"""Answers the request as if there were no fault."""


def _answer_status(args: Args, request: Request, proceed: Next) -> Reply:
    """Answer with a status and a problem body: `status`, `title`, `headers`."""
    status = args.get("status", 500)
    body = {"type": "about:blank", "title": args.get("title", "Something went wrong."), "status": status}
    body |= {"traceId": "fault", "errors": {}, "data": {}}
    return Reply(status, orjson.dumps(body), "application/problem+json", args.get("headers", {}))


def _answer_html(args: Args, request: Request, proceed: Next) -> Reply:
    return Reply(args.get("status", 200), b"<html><body><h1>Please stand by</h1></body></html>", "text/html")


def _answer_nothing(args: Args, request: Request, proceed: Next) -> Reply:
    return Reply(200, b"")


def _answer_late(args: Args, request: Request, proceed: Next) -> Reply:
    """Answer only after `seconds`."""
    time.sleep(args["seconds"])
    return proceed(request)


def _reset_connection(args: Args, request: Request, proceed: Next) -> Reply:
    """Reset the connection in the middle of the body."""
    return replace(proceed(request), reset=True)


def _drip_body(args: Args, request: Request, proceed: Next) -> Reply:
    """Send the body a byte at a time, with a pause of `seconds` before each."""
    return replace(proceed(request), pause=args["seconds"])


def _cap_page_size(args: Args, request: Request, proceed: Next) -> Reply:
    """Answer with pages of at most `size` rows, whatever was requested."""
    requested = int(request.params.get("pageSize", ["50"])[0])
    request.params["pageSize"] = [str(min(requested, args["size"]))]
    return proceed(request)


def _repeat_page(args: Args, request: Request, proceed: Next) -> Reply:
    """Answer with the previous page under the number of the requested one."""
    page = int(request.params.get("page", ["1"])[0])
    request.params["page"] = [str(max(page - 1, 1))]
    reply = proceed(request)
    body = read_page(reply)
    return replace(reply, body=orjson.dumps(body | {"page": page})) if body else reply


def _ignore_params(args: Args, request: Request, proceed: Next) -> Reply:
    """Answer as if the parameters `names` had not been sent."""
    for name in args["names"]:
        request.params.pop(name, None)
    return proceed(request)


def _alternate_tokens(args: Args, request: Request, proceed: Next) -> Reply:
    """Answer a feed with the first page and the tokens A, B, A, B and so on."""
    args["turn"] = args.get("turn", 0) + 1
    request.params.pop("from", None)
    reply = proceed(request)
    page = read_page(reply)
    tokens = {"hasMore": True, "continueFrom": "AB"[args["turn"] % 2]}
    return replace(reply, body=orjson.dumps(page | tokens)) if page else reply


def read_page(reply: Reply) -> Page | None:
    """Decode the page of a good reply; None for a refusal, or for what another fault has made no page at all."""
    try:
        page = orjson.loads(reply.body) if reply.status == HTTPStatus.OK else None
    except orjson.JSONDecodeError:
        return None
    return page if isinstance(page, dict) else None


def _change_page(change: Callable[[Args, Request, Page], Any]) -> Callable[[Args, Request, Next], Reply]:
    """Make a fault that changes the decoded page of a good reply.

    A page of a feed has no number and no total, and another fault may have taken more from it.
    """

    def apply_fault(args: Args, request: Request, proceed: Next) -> Reply:
        reply = proceed(request)
        page = read_page(reply)
        if page is None:
            return reply
        change(args, request, page)
        return replace(reply, body=orjson.dumps(page))

    return apply_fault


def _falsify_total(args: Args, request: Request, page: Page) -> None:
    page["totalCount"] = args["value"]


def _quote_total(args: Args, request: Request, page: Page) -> None:
    if page.get("totalCount") is not None:
        page["totalCount"] = str(page["totalCount"])


def _quote_has_more(args: Args, request: Request, page: Page) -> None:
    if "hasMore" in page:
        page["hasMore"] = str(page["hasMore"]).lower()


def _repeat_token(args: Args, request: Request, page: Page) -> None:
    page["continueFrom"] = request.params.get("from", [""])[0]
    page["hasMore"] = True


def _set_field(row: Page, path: str, args: Args) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        row = row[parent]
    if args.get("drop"):
        row.pop(name, None)
    else:
        # `raw` is JSON text that no encoder would write, such as NaN.
        row[name] = orjson.Fragment(args["raw"]) if "raw" in args else args["value"]


def list_rows(page: Page) -> list[Any]:
    """List the rows of a page, which another fault may have taken out of it."""
    return page.get("data") or []


def _find_rows(args: Args, page: Page) -> list[Page]:
    rows = [row for row in list_rows(page) if isinstance(row, dict)]
    return [row for row in rows if row.get("id") in args["ids"]] if "ids" in args else rows[: args.get("rows", 1)]


def _mangle_rows(args: Args, request: Request, page: Page) -> None:
    """Set the field at `field` to `value` or `raw`, or drop it, in the rows with `ids` or the first `rows` (1)."""
    for row in _find_rows(args, page):
        _set_field(row, args["field"], args)


def _add_rows(args: Args, request: Request, page: Page) -> None:
    """Add a row that is the JSON text `raw` to the first page of a list."""
    if page.get("page") == 1 and len(list_rows(page)) > 1:
        page["data"].append(orjson.Fragment(args["raw"]))


def _duplicate_rows(args: Args, request: Request, page: Page) -> None:
    """Repeat the chosen rows in the page, the copies with the fields of `change`."""
    if copies := [row | args.get("change", {}) for row in _find_rows(args, page)]:
        page["data"] += copies


FAULTS: dict[str, Callable[[Args, Request, Next], Reply]] = {
    "status": _answer_status,
    "html": _answer_html,
    "empty": _answer_nothing,
    "timeout": _answer_late,
    "reset": _reset_connection,
    "drip": _drip_body,
    "cap_page_size": _cap_page_size,
    "ignore": _ignore_params,
    "alternate_tokens": _alternate_tokens,
    "repeat_page": _repeat_page,
    "no_data": _change_page(lambda args, request, page: page.pop("data", None)),
    "data_null": _change_page(lambda args, request, page: page.update(data=None)),
    "empty_page": _change_page(lambda args, request, page: page.update(data=[], hasMore=True)),
    "bad_total": _change_page(_falsify_total),
    "quote_total": _change_page(_quote_total),
    "has_more_missing": _change_page(lambda args, request, page: page.pop("hasMore", None)),
    "has_more_string": _change_page(_quote_has_more),
    "repeat_token": _change_page(_repeat_token),
    "null_token": _change_page(lambda args, request, page: page.update(continueFrom=None)),
    "mangle": _change_page(_mangle_rows),
    "duplicate_row": _change_page(_duplicate_rows),
    "add_row": _change_page(_add_rows),
}


@dataclass
class Order:
    """A fault that was ordered, with how many requests it still skips and hits (None: no limit)."""

    path: re.Pattern[str]
    fault: str
    args: Args
    skip: int = 0
    times: int | None = None

    def hits(self, path: str) -> bool:
        """Tell whether the fault hits this request, and count it."""
        if not self.path.search(path) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def parse_order(body: dict[str, Any], names: Iterable[str]) -> Order:
    """Read an order for a fault. Raises ValueError for a fault that is not in `names` or a path that is not a regex."""
    args = dict(body)
    fault = args.pop("fault", None)
    if fault not in names:
        raise ValueError(f"There is no fault '{fault}'; use one of {', '.join(sorted(names))}.")
    try:
        path = re.compile(args.pop("path", ""))
    except re.error as error:
        raise ValueError(f"The path is not a regular expression: {error}.") from None
    return Order(path, fault, skip=args.pop("skip", 0), times=args.pop("times", None), args=args)
