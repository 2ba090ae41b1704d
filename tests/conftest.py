"""Fixtures that several test files share."""

from collections.abc import Callable, Iterator

import pytest
import requests

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import populate

UNLIMITED = 1_000_000


@pytest.fixture(scope="session")
def tenant() -> Store:
    """A whole generated tenant, the known case included, with one job in fifty. Not to be changed by a test."""
    store = Store()
    populate(store, seed=1, scale=0.02)
    return store


@pytest.fixture(scope="session")
def sandbox(tenant: Store) -> Iterator[server.Sandbox]:
    """The generated tenant over HTTP, without rate limits. Not to be changed by a test."""
    running = server.start(tenant, calls_per_second=UNLIMITED, report_seconds=0, export_page_size=300)
    yield running
    running.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., server.Sandbox]]:
    """`serve(store, **options of server.start)` runs a sandbox of its own for one test."""
    running = []

    def start(store: Store, **options: float) -> server.Sandbox:
        running.append(server.start(store, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def signed_in(sandbox: server.Sandbox) -> requests.Session:
    """A plain HTTP session with a fresh token, for tests that look at the wire."""
    session = requests.Session()
    environment = sandbox.environment
    form = {"grant_type": "client_credentials", "client_id": environment["ST_CLIENT_ID"]}
    token = session.post(
        environment["ST_AUTH_URL"], data=form | {"client_secret": environment["ST_CLIENT_SECRET"]}, timeout=10
    )
    token.raise_for_status()
    session.headers.update({"Authorization": token.json()["access_token"], "ST-App-Key": environment["ST_APP_KEY"]})
    return session
