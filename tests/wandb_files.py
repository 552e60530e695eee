"""Reads W&B's offline files: protobuf records in LevelDB's log format (blocks of 32 KB, 7-byte headers)."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
SECONDS = 20  # a busy machine may take as long to write a file
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What one offline directory holds."""

    run_id: str = ""
    project: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None
    kinds: list[str] = field(default_factory=list)
    text: str = ""


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Return the offline runs in a run folder's `wandb`, oldest first, once their ends are written."""
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and any(read(path).exit_code is None for path in files):
        time.sleep(0.1)
    return [read(path) for path in files]


def read(path: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    found = OfflineRun()
    if path.stat().st_size < HEADER:
        return found
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        found.kinds.append(kind)
        found.text += str(record)
        if kind == "run":
            run = record.run
            found.run_id, found.project, found.name = run.run_id, run.project, run.display_name
            found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            items = record.history.item
            found.history.append(
                {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
        elif kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
            found.artifacts.append(
                record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            )
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _records(data: bytes) -> list[bytes]:
    assert data[:4] == b":W&B"
    whole, part, place = [], b"", HEADER
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEADER])
        chunk = data[place + HEADER : place + HEADER + size]
        place += HEADER + size
        part = chunk if kind in (FULL, FIRST) else part + chunk
        if kind in (FULL, LAST):
            whole.append(part)
    return whole
