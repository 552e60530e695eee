"""The exit statuses of every command, in one table."""

from __future__ import annotations

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED, REQUEUED, UNREAD = 0, 1, 2, 130, 143, 138, 141

EXIT_CODES = {
    DONE: "done",
    FAILED: "failed, or what a check looks for was found: one line on standard error, or the check's report",
    USAGE: "wrong usage: a command or option that is missing or unknown, or an option without its value",
    INTERRUPTED: "interrupted by Ctrl-C; the last line says what is kept",
    TERMINATED: "stopped by SIGTERM, as clusters do before a job's time ends; what is saved is said",
    REQUEUED: "stopped by SIGUSR1, likewise",
    UNREAD: "standard output was closed by who read it, as head does; nothing is said, files were written",
}


def exit_codes_table() -> str:
    """Return the exit statuses as text, one a line.

    Example:
        >>> exit_codes_table().splitlines()[0]
        '    0  done'
    """
    return "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
