"""What is shown: warnings and errors, no remarks of libraries on what nobody chose, no terminal commands."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO, cast

from calib.core.text import printable, redacted


class SafeFormatter(logging.Formatter):
    """Lines of the log without terminal commands and passwords, which file names and addresses may hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, safe to show."""
        return printable(redacted(super().format(record)))


class _Safe:
    """A stream that is written to without terminal commands."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shown_safely() -> Iterator[None]:
    """Run a block whose text on standard output is shown without terminal commands, as names may hold."""
    with contextlib.redirect_stdout(cast(TextIO, _Safe(sys.stdout))):
        yield


def show_warnings() -> None:
    """Show warnings and errors, but not the libraries' remarks on what the user did not choose."""
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("calib").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for remark in (
        "isinstance.treespec, LeafSpec",
        "module.s. in eval mode at the start of training",  # the frozen backbone, on purpose
        "does not have many workers",
        "You defined a .validation_step. but have no .val_dataloader",  # there are no validation images
        "Checkpoint directory",
        "It is recommended to use .*sync_dist",  # every process logs the numbers of all
        "find_unused_parameters=True was specified",
        ".broadcast_buffers. is deprecated",  # its successor is not in older versions
        "does not have a deterministic implementation, but you set",  # on a GPU, see `make_trainer`
    ):
        warnings.filterwarnings("ignore", message=f".*{remark}.*")
