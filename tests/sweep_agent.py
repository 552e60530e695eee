"""A stand-in for W&B's server: draws the points of a sweep file. The agent that starts the runs is W&B's."""

from __future__ import annotations

import itertools
import json
import math
import queue
import random
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def bounds(parameter: dict[str, Any]) -> list[Any]:
    """Return all values of a list, or both ends of a distribution."""
    if "values" in parameter:
        return parameter["values"]
    return [parameter["value"]] if "value" in parameter else [parameter["min"], parameter["max"]]


def points(sweep: dict[str, Any], count: int, seed: int = 0) -> list[dict[str, dict[str, Any]]]:
    """Return what the server would send an agent as "args", having been JSON on the way."""
    parameters = sweep["parameters"]
    if sweep["method"] == "grid":
        drawn = list(itertools.product(*(bounds(each) for each in parameters.values())))
    else:
        generator = random.Random(seed)
        drawn = [tuple(_draw(each, generator) for each in parameters.values()) for _ in range(count)]
    sent = [
        {key: {"value": value} for key, value in zip(parameters, values, strict=True)} for values in drawn
    ]
    return json.loads(json.dumps(sent))


def arguments(args: dict[str, dict[str, Any]]) -> list[str]:
    """Return the exact strings that ${args_no_hyphens} stands for."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    return create_sweep_command_args({"args": args})["args_no_hyphens"]


def run_agent(sweep: dict[str, Any], args: dict[str, dict[str, Any]], run_id: str) -> int:
    """Let W&B's agent start one run, as it does when the server says so, and return its exit status."""
    from wandb.wandb_agent import Agent

    agent = Agent(api=None, queue=queue.Queue(), sweep_id="sweep1")
    agent._sweep_command = list(sweep["command"])
    agent._command_run({"args": args, "run_id": run_id, "program": sweep["program"]})
    return agent._run_processes[run_id].wait(timeout=240)


def _draw(parameter: dict[str, Any], generator: random.Random) -> Any:
    kind = parameter.get("distribution")
    if kind is None:
        return generator.choice(bounds(parameter))
    low, high = bounds(parameter)
    if kind == "int_uniform":
        return generator.randint(low, high)
    if kind == "log_uniform_values":
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    assert kind == "uniform", kind
    return generator.uniform(low, high)
