"""Exports on the Hugging Face hub: put there only when asked to, taken from there at a pinned revision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from calib.core.errors import first_line
from calib.runs.folder import FILES

HUB = "hf://"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ADVICE = "Log in (hf auth login, or HF_TOKEN) with a token that may write there."


@dataclass(frozen=True)
class Shared:
    """What was written for others.

    Attributes:
        folder: Where it lies.
        files: Its files.
    """

    folder: Path
    files: tuple[str, ...]


def check_hub_id(hub_id: str) -> str:
    """Return a hub id.

    Raises:
        ValueError: It is not "owner/name".
    """
    if not HUB_ID.fullmatch(hub_id):
        raise ValueError(f"push={hub_id}: a repository on the hub is written owner/name.")
    return hub_id


def push(shared: Shared, hub_id: str, *, private: bool = True) -> str:
    """Return the commit on the hub that the files of a folder were put into.

    Args:
        shared: What is put there.
        hub_id: "owner/name"; the repository is made where there is none.
        private: Whether a new one is private.

    Raises:
        FileNotFoundError: The hub cannot be reached or refuses; the message says what it said.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(check_hub_id(hub_id), private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=hub_id,
            folder_path=shared.folder,
            allow_patterns=list(shared.files),
            commit_message="Export of a run of calib",
        )
    except ValueError:
        raise
    except Exception as error:  # which one means "no network" depends on the version of the hub's client
        raise FileNotFoundError(
            f"'{hub_id}' could not be written on the Hugging Face hub: {first_line(error)}. {ADVICE} The "
            f"folder '{shared.folder}' is complete."
        ) from error
    return str(commit.oid)


def fetch(text: str, revision: str | None) -> Path:
    """Return the local folder or file of an export on the hub, at a revision that was said.

    Args:
        text: "hf://owner/name", or "hf://owner/name/prompt.safetensors" for one of its files.
        revision: A commit, or a tag or branch, which may change.

    Raises:
        ValueError: It is no hub id, or no revision was said.
        FileNotFoundError: It is neither there nor in the local cache.
    """
    found = re.fullmatch(
        rf"({HUB_ID.pattern})(?:/({'|'.join(map(re.escape, _names()))}))?", text.removeprefix(HUB)
    )
    if found is None:
        raise ValueError(
            f"'{text}' is no export on the hub: expected hf://owner/name, or hf://owner/name/FILE with FILE "
            f"one of {', '.join(_names())}."
        )
    if revision is None:
        raise ValueError(
            f"'{text}' may change on the hub. Say which commit is meant: revision='COMMIT' (its 40 letters "
            "stand in the history of the repository)."
        )
    from huggingface_hub import snapshot_download

    hub_id, name = found.groups()
    try:
        folder = Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=[name] if name else _names())
        )
    except Exception as error:  # which one means "no network" depends on the version of the hub's client
        raise FileNotFoundError(
            f"'{hub_id}' at revision {revision} could not be got from the Hugging Face hub, and is not in "
            f"the local cache: {first_line(error)}."
        ) from error
    return folder / name if name else folder


def _names() -> list[str]:
    return [FILES[key].path for key in ("prompt", "failure")]
