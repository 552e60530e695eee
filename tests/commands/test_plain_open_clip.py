"""A failure head for a model that only open_clip has seen: its script knows nothing of calib."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_shared import SHORT

from calib.commands.failure.run import train_failure
from calib.config import load_config
from calib.data.predictions import Predictions
from calib.failure.export import FailureHead

SCRIPT = Path(__file__).parents[1] / "scripts" / "plain_open_clip_embeddings.py"
MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def test_a_head_is_trained_on_what_plain_open_clip_wrote(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not re.search(r"^\s*(import|from) calib", SCRIPT.read_text(), re.MULTILINE)
    model, out = tmp_path / "small-random.json", tmp_path / "features.npz"
    model.write_text(json.dumps(MODEL))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(model), str(image_folder), str(out)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    changes = [f"embeddings.train={out}", f"out={tmp_path / 'run'}", "data.val_shots=0", "head.hidden=[16]"]
    results = train_failure(load_config([*SHORT, *changes, "n_resamples=20"], task="failure"))
    probs = np.load(tmp_path / "features.probs.npy")
    test = Predictions.load(tmp_path / "run" / "predictions.safetensors")
    assert np.allclose(test.probs, probs, atol=1e-5)  # the scale is open_clip's
    assert test.class_names == ["class_0", "class_1", "class_2"]
    assert test.names[4] == "test/class_1/1.png"
    wrong = probs.argmax(1) != np.repeat([0, 1, 2], 3)
    assert results["test"] == {"n": 9, "n_failures": int(wrong.sum())}
    head = FailureHead.load(tmp_path / "run" / "failure.safetensors")
    assert (head.head.dim, head.backbone, head.prompt) == (24, None, None)
    assert head.uncertainty(test.image_features).shape == torch.Size([9])
