"""`python -m stkpi.runner SPEC.yml [-p name=value ...]`: execute the notebooks of a spec; see `stkpi.runs.runner`."""

from stkpi.runs.runner import main
from stkpi.terminal import run_command

if __name__ == "__main__":
    run_command(main)
