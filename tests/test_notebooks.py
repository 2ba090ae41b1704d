"""nbval executes every notebook as JupyterLab would, against a tenant over HTTP and a warehouse that holds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stkpi.settings import ROOT

NBVAL = ["-m", "pytest", "-q", "--no-header", "--nbval-lax", "--nbval-cell-timeout=300", "-p", "no:cacheprovider"]


def nbval(*notebooks: Path) -> subprocess.CompletedProcess[str]:
    """Run nbval in a process of its own: a test within a test."""
    command = [sys.executable, *NBVAL, *map(str, notebooks)]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("healthy")
def test_every_notebook_runs_from_top_to_bottom():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    run = nbval(*notebooks)
    assert len(notebooks) >= 7
    assert run.returncode == 0, run.stdout


def test_a_cell_that_raises_is_seen():
    run = nbval(ROOT / "tests" / "notebooks" / "03_raises.ipynb")
    assert run.returncode == 1
    assert "1 failed" in run.stdout
