"""`python -m sandbox`: generate the tenant, serve it until interrupted, and print the lines that a client exports.

Reads SANDBOX_COMPANY (painting or hvac), SANDBOX_PORT (8900; 0 = any free port), SANDBOX_SEED (1), SANDBOX_SCALE (1)
and SANDBOX_REPORT_SECONDS (1: between two runs of one saved report; ServiceTitan wants about 60) from the environment.
"""

import contextlib
import hashlib
import os
import pickle
import signal
import socket
import stat
import sys
import threading
import time
from pathlib import Path

from dotenv import dotenv_values
from tqdm import tqdm

from sandbox.companies import COMPANIES
from sandbox.server import start
from sandbox.store import DEFAULT_COMPANY, Store
from sandbox.tenant import populate

USAGE = 2
RUNS = Path(__file__).parents[2] / "runs"
CACHED_SCALES = (0.1, 2)  # a smaller tenant is generated in no time, a larger one would fill the disk: 400 MB at 1


def _read_setting(name: str, default: str, kind: type, smallest: float, largest: float) -> int | float:
    text = os.environ.get(name) or default
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not smallest <= value <= largest:
        noun = "a whole number" if kind is int else "a number"
        sys.stderr.write(f"{name}={text} does not work: it must be {noun} from {smallest} to {largest}.\n")
        sys.exit(USAGE)
    return value


def _read_company() -> str:
    name = os.environ.get("SANDBOX_COMPANY") or DEFAULT_COMPANY
    if name not in COMPANIES:
        sys.stderr.write(f"SANDBOX_COMPANY={name} does not work: it must be {' or '.join(COMPANIES)}.\n")
        sys.exit(USAGE)
    return name


def load_tenant(company: str, seed: int, scale: float, cache: Path) -> Store:
    """Load the tenant from the file that the last call left, if tenant and code are the same; else generate it.

    Generating it takes 15 seconds, with which a nightly run should not start.
    """
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    key = hashlib.sha256(code + f"{sys.version} {company} {seed} {scale}".encode()).hexdigest()
    with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError), cache.open("rb") as file:
        # A pickle runs what it says: only one that this user has written, and no other can write to, is read.
        status = os.fstat(file.fileno())
        is_ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_ours and pickle.load(file) == key:  # noqa: S301
            return pickle.load(file)  # noqa: S301
    store = _generate_tenant(company, seed, scale)
    smallest, largest = CACHED_SCALES
    if smallest <= scale <= largest:
        unfinished = cache.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                pickle.dump(key, file)
                pickle.dump(store, file, pickle.HIGHEST_PROTOCOL)
            unfinished.replace(cache)
        unfinished.unlink(missing_ok=True)
    return store


def _generate_tenant(company: str, seed: int, scale: float) -> Store:
    """Generate the tenant; on a terminal, show the number of its records as it grows."""
    sys.stderr.write(f"Generating a tenant ({COMPANIES[company].name}, seed {seed}, scale {scale:g}) …\n")
    store, ready = Store(company), threading.Event()

    def show_progress() -> None:
        with tqdm(unit=" records", unit_scale=True, disable=None) as bar:
            while not ready.wait(0.2):
                bar.update(len(store) - bar.n)

    counter = threading.Thread(target=show_progress)
    counter.start()
    try:
        populate(store, seed=seed, scale=scale)
    finally:
        ready.set()
        counter.join()
    return store


def main() -> None:
    """Serve until SIGINT or SIGTERM; exit 2 with one sentence for a setting that does not work."""
    company = _read_company()
    port = int(_read_setting("SANDBOX_PORT", "8900", int, 0, 65535))
    seed = int(_read_setting("SANDBOX_SEED", "1", int, 0, 2**31 - 1))
    scale = _read_setting("SANDBOX_SCALE", "1", float, 0.001, 1000)
    report_seconds = _read_setting("SANDBOX_REPORT_SECONDS", "1", float, 0, 3600)
    try:
        socket.create_server(("127.0.0.1", port)).close()  # before the minutes that generating a large tenant takes
    except OSError:
        sys.stderr.write(f"Port {port} is in use: stop what runs there or set SANDBOX_PORT to another one.\n")
        sys.exit(USAGE)
    began = time.monotonic()
    store = load_tenant(company, seed, scale, RUNS / "sandbox" / company / "records.pickle")
    sandbox = start(store, port, seed=seed, report_seconds=report_seconds)
    seconds = time.monotonic() - began
    sys.stderr.write(f"{len(store):,} records after {seconds:.0f} s, served at {sandbox.url}; Ctrl-C stops it.\n")
    signals: list[int] = []
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # before the lines are printed: a client that has read them may stop us
        signal.signal(number, lambda received, _: signals.append(received))
    for name, value in (dotenv_values(Path(__file__).parent / f"{company}.env") | sandbox.environment).items():
        sys.stdout.write(f"export {name}={value}\n")
    sys.stdout.flush()
    while not signals:  # an endless wait can miss a signal that came just before it, or to another thread
        time.sleep(0.1)
    sandbox.close()


if __name__ == "__main__":
    main()
