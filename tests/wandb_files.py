"""Reads W&B's offline files: protobuf records in LevelDB's log format (blocks of 32 KB, 7-byte headers)."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768
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
    """Return the offline runs in a run folder's `wandb`, oldest first."""
    return [read(path) for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))]


def read(path: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    found = OfflineRun()
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
    whole, part, place = [], b"", 7
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        chunk = data[place + 7 : place + 7 + size]
        place += 7 + size
        part = chunk if kind in (FULL, FIRST) else part + chunk
        if kind in (FULL, LAST):
            whole.append(part)
    return whole
