"""The kernels in which the runner executes notebooks: forked from a process that has imported what they import."""

from __future__ import annotations

import ast
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar, cast

import nbformat
from ipykernel import kernelapp
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from tqdm import tqdm

from stkpi.garbage import collect_rarely

_CAN_FORK = sys.platform == "linux"  # macOS has a fork, but its system libraries do not survive one


class Kernel(AsyncKernelManager):
    """A kernel that the runner can signal: Ctrl-C does not reach kernels, which have sessions of their own."""

    started: ClassVar[weakref.WeakSet[Kernel]] = weakref.WeakSet()
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # ipykernel 7 offers encryption; by default the manager refuses it, with a warning per kernel.
        super().__init__(*args, transport_encryption="auto", **kwargs)
        if _CAN_FORK and next(self.numbers) > 0:  # the first does not wait until all is imported
            self.provisioner = _ForkProvisioner(kernel_spec=self.kernel_spec, parent=self)
        self.started.add(self)

    @classmethod
    def signal_all(cls, number: signal.Signals) -> None:
        """Send a signal to every kernel that runs."""
        for kernel in set(cls.started):
            pid = getattr(kernel.provisioner, "pid", None)
            if kernel.has_kernel and pid:
                os.kill(pid, number)


def prepare_kernels(notebooks: Sequence[Path], at_once: int) -> None:
    """Start the process that imports what several notebooks import, while the first one runs; kernels are its forks.

    at_once: how many run at a time; numpy's threads, which wait busily for each other, are divided among them
    """
    if _CAN_FORK and len(notebooks) > 1:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__, *sorted(set().union(*map(read_imports, notebooks)))])
        forkserver.ensure_running()


def read_imports(notebook: Path) -> set[str]:
    """Read the modules that a notebook imports: `a`, or `a.b` for `from a import b`, which may be no module.

    Cells that are not Python alone, such as those with `%matplotlib inline`, are left out.
    """
    found: set[str] = set()
    for cell in nbformat.read(notebook, as_version=4).cells:
        with suppress(SyntaxError):
            for node in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
                if isinstance(node, ast.Import):
                    found |= {name.name for name in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


class _ForkProvisioner(LocalProvisioner):
    """Start kernels as forks."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start a kernel; `cmd` ends with what is for ipykernel."""
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        kernel = _KernelProcess(target=_run_kernel, args=(arguments, kwargs["env"]))
        kernel.start()
        self.process = cast(Any, kernel)
        self.pid = self.pgid = kernel.pid
        return self.connection_info


class _KernelProcess(ForkServerProcess):
    """A process with the methods of a subprocess.Popen that the provisioner calls."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        if self.pid and self.exitcode is None:
            os.kill(self.pid, number)


def _run_kernel(arguments: list[str], environment: dict[str, str]) -> None:
    """Run a kernel in this process until it is shut down, or the runner ends."""
    os.setsid()
    collect_rarely()
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which outlives a kernel that is killed
    kernelapp.launch_new_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _end_with_parent() -> None:
    runner = parent_process()
    if runner:
        runner.join()
        os._exit(1)
