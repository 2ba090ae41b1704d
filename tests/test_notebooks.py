"""nbval executes every notebook as JupyterLab would, against a tenant over HTTP and a warehouse that holds it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stkpi.company import SANDBOX_PRESET
from stkpi.settings import ROOT

NBVAL = ["-m", "pytest", "-q", "--no-header", "--nbval-lax", "--nbval-cell-timeout=300", "-p", "no:cacheprovider"]


@pytest.mark.usefixtures("healthy")
@pytest.mark.soak
def test_every_notebook_runs_from_top_to_bottom_and_a_cell_that_raises_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPANY", str(shutil.copytree(SANDBOX_PRESET, tmp_path / "company")))  # one step adds to it
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert len(notebooks) >= 7
    raises = shutil.copy(ROOT / "tests" / "notebooks" / "03_raises.ipynb", tmp_path)  # away from our conftest.py
    command = [sys.executable, *NBVAL, *map(str, notebooks), raises]
    run = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    failed = re.findall(r"^FAILED \S*?(\w+)\.ipynb::", run.stdout, re.MULTILINE)
    assert failed == ["03_raises"], run.stdout
    assert re.search(r"^1 failed, \d+ passed in", run.stdout, re.MULTILINE), run.stdout
