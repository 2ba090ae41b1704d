"""What commands print: as text on any terminal, whatever is in a name, and into a pipe that nobody reads any more."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from stkpi.errors import explain_os_error
from stkpi.formatting import show_controls
from stkpi.garbage import collect_rarely


class _Output(io.TextIOWrapper):
    """A stream in which control characters are shown, not obeyed, and that goes on when its reader has left."""

    def write(self, text: str) -> int:
        try:
            super().write(show_controls(text, keep="\n\r\t"))
        except BrokenPipeError:
            self._discard()
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Send all that follows nowhere: the work of a night must not end because `head` has seen enough."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def prepare_output() -> None:
    """Make stdout and stderr of this process such streams; what the terminal cannot show is printed as \\u2026."""
    sys.stdout, sys.stderr = _wrap(sys.stdout), _wrap(sys.stderr)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a program's main function and exit with its code; a full disk, or one that is read-only, is one sentence."""
    prepare_output()
    collect_rarely()
    try:
        code = main()
    except OSError as error:
        sentence = explain_os_error(error)
        if not sentence:
            raise
        print(sentence, file=sys.stderr)
        code = 1
    sys.exit(code)


def _wrap(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # there is none, as under pythonw
        return stream
    encoding, lines = stream.encoding, stream.line_buffering
    return _Output(stream.detach(), encoding, "backslashreplace", line_buffering=lines)
