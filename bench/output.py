"""Standard output that somebody may stop reading (`| head -1`, a pager that was left) while there is work to go on with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """While it is open, what nobody reads any more is dropped, on standard output and error: a print ends nothing."""
    with (
        open(os.devnull, "w") as nowhere,  # for a stream that was closed before this process began
        contextlib.redirect_stdout(Lasting(sys.stdout or nowhere)) as out,
        contextlib.redirect_stderr(Lasting(sys.stderr or nowhere)) as err,
    ):
        try:
            yield
        finally:
            out.flush()
            err.flush()


class Lasting:
    """A stream for which a broken pipe is no error."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            drop(self.stream)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            drop(self.stream)


def drop(stream: TextIO) -> None:
    """Send what is written to a stream to nowhere, also what it holds back and what processes started later write."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
