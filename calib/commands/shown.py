"""What is shown of the log: warnings and errors, but not the libraries' remarks on what nobody chose."""

from __future__ import annotations

import logging
import warnings

from calib.core.text import printable, redacted


class SafeFormatter(logging.Formatter):
    """Lines of the log without terminal commands and passwords, which file names and addresses may hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, safe to show."""
        return printable(redacted(super().format(record)))


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
