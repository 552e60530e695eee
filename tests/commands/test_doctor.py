"""`calib doctor`: what is missing is named with what to do, and nobody is asked unless it is wished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calib.backbones.fast import kernels
from calib.cli import main
from calib.commands import doctor
from calib.core.optional import OPTIONAL, OptionalPart


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """Return an empty folder that is also where the Hugging Face cache and the home lie."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def examined(capsys, *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(["doctor", "--json", *arguments]) == status
    return json.loads(capsys.readouterr().out)


def test_it_says_what_is_here_and_how_to_get_the_rest(place: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(OPTIONAL, "x", OptionalPart(("no_such_module",), "nothing", "pip install x"))
    monkeypatch.setattr(doctor, "reachable", lambda _: pytest.fail("the network was asked"))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "  x                   missing, for nothing: pip install x\n" in printed
    assert "  embedded            come with calib\n" in printed
    assert "  plip                not here: backbone.weights=hf://vinid/plip\n" in printed
    assert "not asked (--network asks)" in printed
    assert "nothing yet in .calib_cache" in printed
    assert "not logged in (wandb login" in printed
    assert "All that is needed is here" in printed
    assert max(map(len, printed.splitlines())) < 200


@pytest.mark.parametrize(
    ("flags", "said"), [("amx_bf16", ", fast in bf16"), ("avx2", ", slow in bf16"), (None, "")]
)
def test_it_says_how_fast_bf16_is(place: Path, monkeypatch, capsys, flags: str | None, said: str) -> None:
    monkeypatch.setattr(kernels, "_processor", lambda: f"flags : {flags}" if flags else "arm")
    monkeypatch.setattr(doctor, "_backbones", lambda problems: [])
    assert main(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("cpu "))
    assert line.endswith(said)
    assert ("in bf16" in line) is bool(said)


def test_weights_caches_and_logins_are_found(place: Path, capsys) -> None:
    snapshot = place / "hub" / "models--vinid--plip" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    assert doctor.hub_folder("vinid/plip") is None
    (snapshot / "pytorch_model.bin").write_bytes(bytes(1000))
    (place / ".calib_cache").mkdir()
    (place / "netrc").write_text("machine api.wandb.ai login user password secret-of-nobody\n")
    found = examined(capsys)
    by_name = {each["name"]: each for each in found["backbones"]}
    assert by_name["plip"]["weights"] == str(snapshot)
    assert not by_name["clip"]["found"]
    assert [cache["bytes"] for cache in found["caches"]] == [0, 1000]
    assert found["wandb"]["logged_in"]
    assert "secret-of-nobody" not in json.dumps(found)


def test_the_hub_is_asked_where_it_is_wished(place: Path, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(doctor, "reachable", lambda address: bool(asked.append(address)))
    assert examined(capsys)["hub"]["reachable"] is None
    assert examined(capsys, "--network")["hub"]["reachable"] is False
    assert len(asked) == 1
    monkeypatch.undo()
    assert not doctor.reachable("http://127.0.0.1:9")  # nobody listens there


def test_what_is_broken_is_named_and_the_rest_is_still_said(place: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: {"calib": "0", "numpy": "0.1"}.get(name, "99"))
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda _: ["numpy>=1.26", "absent>=2; extra == 'x'", "pillow"]
    )

    def fail(_: object) -> None:
        raise OSError("libcuda is broken\nand more")

    monkeypatch.setattr(doctor, "_devices", fail)
    found = examined(capsys, status=1)
    assert found["problems"] == [
        "numpy is 0.1; needed is >=1.26: pip install 'numpy>=1.26'",
        "torch: OSError: libcuda is broken",
    ]
    assert [each["fits"] for each in found["packages"]] == [False, True]
    assert found["backbones"]
    assert main(["doctor"]) == 1
    assert "To mend:\n- numpy is 0.1" in capsys.readouterr().out
