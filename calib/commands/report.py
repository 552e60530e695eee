"""`calib report`: one page on finished runs that opens from disk, and its tables as files."""

from __future__ import annotations

import sys
from pathlib import Path

from calib.commands.machine import to_json
from calib.config import ReportRun
from calib.report.page import checked_path, write_report
from calib.runs.folder import RunFolder
from calib.runs.reports import report_of


def main(config: ReportRun) -> int:
    """Run `calib report` and say where the page lies. Returns the exit status."""
    if config.out is not None:
        page = Path(config.out)
    else:  # beside the first run, or here where that is a file
        first = Path(config.runs[0]) if config.runs else Path()
        page = RunFolder(first if first.is_dir() else Path()).report
    checked_path(page)
    write_report(report_of(config), page)
    if config.json:
        files = [str(page.with_suffix(ending)) for ending in (".json", ".csv", ".md")]
        sys.stdout.write(to_json({"page": str(page), "files": files, "bytes": page.stat().st_size}) + "\n")
        return 0
    beside = ", ".join(page.with_suffix(ending).name for ending in (".json", ".csv", ".md"))
    sys.stdout.write(f"Report: {page} ({page.stat().st_size / 1e6:.1f} MB; tables: {beside})\n")
    return 0
