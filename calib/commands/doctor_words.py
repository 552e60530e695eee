"""What `calib doctor` found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDE = 21  # letters before what is said of something


def words_of(found: Mapping[str, Any]) -> str:
    """Return the findings as text.

    Args:
        found: From `calib.commands.doctor.examined`.
    """
    about, threads = found["calib"], found["threads"]
    how = "" if about["installed"] else ", not installed: run from that folder"
    lines = [
        _line("calib", f"{about['version']} in {about['folder']}{how}"),
        _line("Python, system", f"{found['python']}, {found['system']}"),
        _line("packages", _packages(found["packages"])),
    ]
    for device in found["devices"]:
        memory = "" if device["memory"] is None else f", {device['memory'] / 2**30:.0f} GiB"
        bf16 = {True: ", fast in bf16", False: ", slow in bf16", None: ""}[device["bf16"]]
        lines.append(_line(device["name"], f"{device['what']}{memory}{bf16}"))
    if threads:
        told = "".join(f", {name}={value}" for name, value in threads["set"].items())
        lines.append(
            _line(
                "threads", f"{threads['threads']} on {threads['cores']} cores, torch {threads['torch']}{told}"
            )
        )
    lines += ["", "Optional parts"]
    lines += [
        _line(
            f"  {each['part']}", "here" if each["here"] else f"missing, for {each['what']}: {each['install']}"
        )
        for each in found["optional"]
    ]
    lines += [
        "",
        "Weights of backbones (those that are missing are fetched where backbone.weights names the hub)",
    ]
    lines += [_line(f"  {each['name']}", _weights(each)) for each in found["backbones"]]
    lines += ["", "Caches and services"]
    for cache in found["caches"]:
        size = "nothing yet" if cache["bytes"] is None else f"{cache['bytes'] / 1e6:,.1f} MB"
        clear = "" if cache["bytes"] is None else f" (make room: {cache['clear']})"
        lines.append(_line(f"  {cache['what']}", f"{size} in {cache['folder']}{clear}"))
    lines += [_line("  W&B", _wandb(found["wandb"])), _line("  Hugging Face hub", _hub(found["hub"])), ""]
    if found["problems"]:
        lines += ["To mend:", *(f"- {each}" for each in found["problems"])]
    else:
        lines.append("All that is needed is here: calib train")
    return "\n".join(lines)


def _line(name: str, said: str) -> str:
    return f"{name:{WIDE}} {said}"


def _packages(packages: list[Mapping[str, Any]]) -> str:
    if not packages:
        return "not compared: calib is not installed, so that nothing says which versions it needs"
    wrong = [each["name"] for each in packages if not each["fits"]]
    return f"all {len(packages)} that are needed fit" if not wrong else f"do not fit: {', '.join(wrong)}"


def _weights(backbone: Mapping[str, Any]) -> str:
    if backbone["weights"] == "packaged":
        return "come with calib" if backbone["found"] else "damaged: install calib again"
    return f"in {backbone['weights']}" if backbone["found"] else f"not here: {backbone['get']}"


def _wandb(state: Mapping[str, Any]) -> str:
    if state["version"] is None:
        return "not installed"
    mode = "" if state["mode"] is None else f", WANDB_MODE={state['mode']}"
    login = "logged in" if state["logged_in"] else "not logged in (wandb login; log.wandb=offline needs none)"
    return f"{state['version']}, {login}{mode}"


def _hub(state: Mapping[str, Any]) -> str:
    if state["offline"]:
        return "switched off (HF_HUB_OFFLINE)"
    if state["reachable"] is None:
        return f"{state['endpoint']}, not asked (--network asks)"
    return f"{state['endpoint']} {'answers' if state['reachable'] else 'does not answer'}"
