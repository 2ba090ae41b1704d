"""A deadline for the whole answer of a server. A timeout of `requests` is one for the next byte: a server that sends a
byte now and then would never meet it.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

CONNECT_SECONDS = 10


class DeadlineAdapter(HTTPAdapter):
    """A transport for a session, in which an answer must have come as a whole within `seconds`.

    An answer that is late raises `requests.Timeout`, or `requests.ConnectionError` in the middle of its body.
    """

    def __init__(self, seconds: float, **options: Any) -> None:
        """Take the seconds that an answer may take, headers and body, and the options of HTTPAdapter."""
        self.seconds = seconds
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, **options)
        self._limit(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """See HTTPAdapter."""
        manager = super().proxy_manager_for(*args, **options)
        self._limit(manager)
        return manager

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None, *args: Any, **options: Any
    ) -> requests.Response:
        """See HTTPAdapter. A timeout that the caller gives is one for connecting and for each byte, within ours."""
        return super().send(request, stream, timeout or (CONNECT_SECONDS, self.seconds), *args, **options)

    def _limit(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = _make_pools(self.seconds)


def limit_answers(session: requests.Session, seconds: float, **options: Any) -> requests.Session:
    """Give the whole of every answer of a session at most `seconds`; return the session. `options`: of HTTPAdapter."""
    for scheme in ("https://", "http://"):
        session.mount(scheme, DeadlineAdapter(seconds, **options))
    return session


class _LimitedReader(io.RawIOBase):
    """The bytes of a socket, each read of which waits no longer than until the deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float) -> None:
        self._raw, self._sock, self._until = raw, sock, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._until - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer takes too long")
        patience = self._sock.gettimeout()
        self._sock.settimeout(remaining if patience is None else min(patience, remaining))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _make_pools(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Make urllib3's pools of connections, with answers that have the deadline."""

    class Answer(HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.fp = io.BufferedReader(_LimitedReader(self.fp.detach(), sock, seconds))

    class Connection(HTTPConnection):
        response_class = Answer

    class SecureConnection(HTTPSConnection):
        response_class = Answer

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}
