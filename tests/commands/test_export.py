"""`calib export`: a folder that others can load, with a card that is true, and the hub only where asked."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import calib
from calib.cli import main
from calib.commands.export_arguments import export_arguments
from calib.io.files import read_json, write_json
from calib.io.tensors import load_tensors
from calib.posthoc import PredictionSets, ReviewThreshold
from calib.runs.decisions import keep_decisions
from calib.runs.hub import fetch
from calib.runs.sharing import share, without_places

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def exported(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "mine"
    assert main(["export", str(calibrated), f"out={folder}", "licence=mit"]) == 0
    return folder


def test_the_folder_loads_back_as_the_same_prompt(calibrated: Path, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {"README.md", "prompt.safetensors"}
    ours, theirs = calib.load(calibrated), calib.load(exported)
    assert isinstance(theirs, calib.Prompt)
    features = torch.nn.functional.normalize(torch.randn(4, ours.text_features.shape[1]))
    assert torch.equal(ours.logits(features), theirs.logits(features))
    assert theirs.class_names == ours.class_names
    theirs.restore_backbone()


def test_the_card_says_what_is_true_of_the_run(calibrated: Path, exported: Path) -> None:
    text = (exported / "README.md").read_text(encoding="utf-8")
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    facts = yaml.safe_load(front)
    assert (facts["library_name"], facts["license"]) == ("calib", "mit")
    assert {"calibration", "medical"} <= set(facts["tags"])
    metrics = json.loads((calibrated / "metrics.json").read_text())["test"]
    listed = {each["type"]: each["value"] for each in facts["model-index"][0]["results"][0]["metrics"]}
    for name in ("accuracy", "ece", "brier", "nll"):
        assert listed[name] == pytest.approx(metrics[name], abs=1e-6)
    assert f"{100 * metrics['accuracy']:.1f} [" in body
    for heading in (
        "Intended use",
        "Data",
        "Results",
        "Calibration",
        "Decisions",
        "Limits",
        "Where it comes",
    ):
        assert f"\n## {heading}" in body
    assert "**Not a medical device.**" in body
    assert "class and source are confounded" in body
    assert "No review threshold was fitted." in body
    assert "None" not in body


@pytest.mark.parametrize("tested", [True, False])
def test_the_card_tells_what_the_export_decides(calibrated: Path, tested: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(calibrated, run)
    if not tested:
        for path in run.rglob("split.json"):
            write_json(path, {**read_json(path), "test": None})
        for path in run.rglob("metrics.json"):
            write_json(path, {key: value for key, value in read_json(path).items() if key != "test"})
        for path in [*run.rglob("predictions.safetensors"), *run.rglob("reliability.png")]:
            path.unlink()
    doubt = torch.arange(200, dtype=torch.float64) / 200
    review = ReviewThreshold(max_error=0.1).fit(doubt, doubt > 0.9)
    labels = torch.arange(60) % 3
    sets = PredictionSets(coverage=0.8).fit((2 * torch.eye(3)[labels]).softmax(dim=1), labels)
    keep_decisions(run / "prompt.safetensors", {}, review=review, sets=sets)
    share(run, tmp_path / "shared")
    text = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    said = text.split("\n## Decisions\n")[1].split("\n## Limits")[0]
    assert f"Review threshold in prompt.safetensors: {review.guarantee}" in said
    names = calib.load(run).class_names
    assert f"Prediction sets in prompt.safetensors: {sets.described(names)}" in said
    assert ("On the test images it accepts" in said) == tested
    assert "was fitted" not in said.replace("it was fitted on", "")
    assert ("The run has no test images" in text) != tested


def test_an_evaluation_is_sent_to_its_runs(tmp_path: Path, capsys) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "evaluation.yaml").write_text("runs: [runs/mine]\n")
    (tmp_path / "e" / "metrics.json").write_text("{}")
    assert main(["export", str(tmp_path / "e"), "out=shared"]) == 1
    error = capsys.readouterr().err
    assert "is an evaluation; export the run it is of: calib export RUN out=shared." in error
    assert "Delete" not in error


def test_nothing_of_this_machine_is_shared(image_folder: Path, settings: Any, tmp_path: Path) -> None:
    from calib.commands.train import train

    run = tmp_path / "run"
    data = [
        "data.name=folder",
        f"data.root={image_folder}",
        "data.shots=2",
        "data.val_shots=0",
        "data.views=0",
    ]
    train(settings(*data, "baselines=[]", f"data.cache_dir={tmp_path / 'cache'}", f"out={run}"))
    share(run, tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert "\n# calibprompt on own images (folder)\n" in card
    assert "images like those it was made with: own images (folder)." in card
    assert "- source: not stated\n- licence: not stated\n" in card
    assert 'calib.load("prompt.safetensors")  # in the folder of this card\n' in card
    for path in (tmp_path / "shared").iterdir():
        content = path.read_bytes().decode("latin-1")
        assert str(tmp_path) not in content
        assert str(image_folder) not in content
        assert "class_0/" not in content  # names of images
    _, record = load_tensors(tmp_path / "shared" / "prompt.safetensors", kind="prompt")
    assert record["training"]["config"]["data"]["root"] is None
    assert record["training"]["config"]["data"]["shots"] == 2
    prompt = calib.load(tmp_path / "shared")
    assert prompt.training["seed"] == calib.load(run).training["seed"]


def test_places_are_taken_out_of_lists_and_backbones_too(calibrated: Path) -> None:
    prompt = calib.load(calibrated)
    prompt.backbone["build"] = {**prompt.backbone["build"], "weights": "/home/me/plip"}
    prompt.training["config"]["log"]["tags"] = ["mine", "~/x", "C:\\y"]
    plain = without_places(prompt)
    assert plain.backbone["build"]["weights"] is None
    assert plain.training["config"]["log"]["tags"] == ["mine"]
    assert prompt.training["config"]["log"]["tags"] == ["mine", "~/x", "C:\\y"]  # a copy was changed


def test_only_an_earlier_export_is_replaced(calibrated: Path, exported: Path, tmp_path: Path, capsys) -> None:
    again = tmp_path / "again"
    shutil.copytree(exported, again)
    assert main(["export", str(calibrated), f"out={again}"]) == 0
    assert "Its licence is not stated" in (again / "README.md").read_text(encoding="utf-8")
    (again / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\), and they would be shared"):
        share(calibrated, again)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("my own")
    with pytest.raises(ValueError, match="is not a card that calib wrote"):
        share(calibrated, mine)
    assert (mine / "README.md").read_text() == "my own"
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([str(tmp_path / "nowhere"), "out=x"], "no folder of a run at"),
        ([str(tmp_path / "empty"), "out=x"], "is no run: there is nothing to share"),
        ([str(calibrated)], "Say which folder to write: out=FOLDER"),
        ([str(calibrated), "out=x", "push=nobody"], "written owner/name"),
        ([str(calibrated), "out=x", "licenc=mit"], "Did you mean 'licence'? Known: licence, out"),
        ([str(calibrated), "out=x", "license=mit"], "Unknown setting 'license'. Did you mean 'licence'?"),
        ([], "the folder of one run, got 0"),
    ):
        assert main(["export", *words]) == 1
        assert message in capsys.readouterr().err
    assert not Path("x").exists()


def test_its_help_says_that_nothing_leaves_this_machine_unasked(capsys) -> None:
    with pytest.raises(SystemExit):
        export_arguments(["--help"])
    assert "without it nothing leaves this machine" in capsys.readouterr().out


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that an upload and a download of two files use."""

    files: dict[str, bytes]
    asked: list[str]
    private: list[bool]

    def _answer(self, content: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        body, path = self._body(), self.path.split("?")[0]
        self.asked.append(f"POST {path}")
        host = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            said = json.loads(body)  # in one way or the other, by the version of the client
            self.private.append(said.get("private") is True or said.get("visibility") == "private")
            self._answer({"url": f"{host}/me/mine"})
        elif path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            self._answer(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            self._answer(
                {
                    "transfer": "basic",
                    "objects": [
                        {**o, "actions": {"upload": {"href": f"{host}/put/{o['oid']}", "header": {}}}}
                        for o in objects
                    ],
                }
            )
        elif path.endswith("/commit/main"):
            for line in body.splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    self.files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
                elif each["key"] == "lfsFile":
                    self.files[each["value"]["path"]] = self.files.pop(each["value"]["oid"])
            url = f"{host}/me/mine/commit/{COMMIT}"
            self._answer({"commitOid": COMMIT, "commitUrl": url, "success": True})
        else:
            self._answer({}, 404)

    def do_PUT(self) -> None:
        self.files[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(f"{self.command} {path}")
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"/me/mine/resolve/{COMMIT}/") and name in self.files:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{len(self.files[name])}-{name}"'}
            self._answer(self.files[name], headers=headers)
        elif re.fullmatch(rf"/api/models/me/mine/revision/({COMMIT}|main)", path):
            listed = [{"rfilename": each} for each in self.files]
            self._answer({"id": "me/mine", "sha": COMMIT, "siblings": listed, "private": True, "tags": []})
        elif path.startswith("/api/models/me/mine/tree/"):
            listed = [
                {"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in self.files.items()
            ]
            self._answer(listed)
        else:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """Return a hub on this machine: everything runs as with the real one but what lies behind HTTP."""
    from huggingface_hub import constants, file_download

    handler = type("OwnHub", (Hub,), {"files": {}, "asked": [], "private": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    # where early versions keep one of their own
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    yield handler
    server.shutdown()
    server.server_close()


def test_an_export_goes_to_the_hub_and_comes_back_at_its_commit(
    calibrated: Path, tmp_path: Path, hub: type[Hub], capsys
) -> None:
    out = tmp_path / "shared"
    assert main(["export", str(calibrated), f"out={out}", "push=me/mine"]) == 0
    printed = capsys.readouterr().out
    assert f'calib.load("hf://me/mine", revision="{COMMIT}")' in printed
    assert hub.private == [True]  # unless somebody says otherwise
    assert {"README.md", "prompt.safetensors"} <= hub.files.keys()
    assert hub.files["prompt.safetensors"] == (out / "prompt.safetensors").read_bytes()
    assert "hf://me/mine/prompt.safetensors" in hub.files["README.md"].decode()

    back = calib.load("hf://me/mine", revision=COMMIT)
    assert isinstance(back, calib.Prompt)
    assert torch.equal(back.text_features, calib.load(calibrated).text_features)
    file = calib.load("hf://me/mine/prompt.safetensors", revision=COMMIT)
    assert torch.equal(file.text_features, back.text_features)
    with pytest.raises(FileNotFoundError, match=f"'me/other' at revision {COMMIT} could not be got"):
        calib.load("hf://me/other", revision=COMMIT)


def test_nothing_is_pushed_or_fetched_unasked(
    calibrated: Path, tmp_path: Path, hub: type[Hub], exported: Path
) -> None:
    assert main(["export", str(calibrated), f"out={tmp_path / 'shared'}"]) == 0
    with pytest.raises(ValueError, match=r"may change on the hub. Say which commit is meant: revision="):
        calib.load("hf://me/mine")
    with pytest.raises(ValueError, match="is no export on the hub"):
        fetch("hf://me/mine/evil.pkl", COMMIT)
    with pytest.raises(ValueError, match="is for exports on the hub"):
        calib.load(exported, revision=COMMIT)
    assert hub.asked == []


def test_a_hub_that_refuses_is_named_and_the_folder_stays(
    calibrated: Path, tmp_path: Path, hub, capsys
) -> None:
    hub.do_POST = lambda self: (self._body(), self._answer({"error": "no"}, 403))[1]
    assert main(["export", str(calibrated), f"out={tmp_path / 'shared'}", "push=me/mine"]) == 1
    error = capsys.readouterr().err
    assert "'me/mine' could not be written on the Hugging Face hub" in error
    assert "is complete" in error
    assert (tmp_path / "shared" / "README.md").is_file()
