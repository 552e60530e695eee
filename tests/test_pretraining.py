"""The shipped backbone loads with plain open_clip, and its pretraining saw no downstream image."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "calib" / "assets" / "embedded"
PRETRAINING = ROOT / "pretraining"
DATA = ROOT.parent / "shared" / "data"
LIMIT = 12_000_000  # bytes


@pytest.fixture(scope="module")
def model():
    return open_clip.create_model(f"local-dir:{ASSETS}").eval()


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer(f"local-dir:{ASSETS}")


def load_script(name: str) -> ModuleType:
    """Import a file of pretraining/, which is a folder of scripts and not a package."""
    spec = importlib.util.spec_from_file_location(name, PRETRAINING / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs():
    yield load_script("pairs")
    sys.modules.pop("pairs")


@pytest.fixture(scope="module")
def pretrain(pairs):
    load_script("texts")
    yield load_script("pretrain")
    for name in ("texts", "pretrain"):
        sys.modules.pop(name)


def test_weights_are_small_and_are_the_reported_ones():
    weights = ASSETS / "open_clip_model.safetensors"
    report = json.loads((ASSETS / "pretraining_report.json").read_text())
    assert weights.stat().st_size <= LIMIT
    for name, digest in report["sha256"].items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest, name
    assert set(report["sha256"]) >= {"open_clip_model.safetensors", "open_clip_config.json", "tokenizer.json"}


def test_every_weight_is_loaded_and_finite(model):
    from safetensors.torch import load_file

    stored = load_file(ASSETS / "open_clip_model.safetensors")
    state = model.state_dict()
    assert set(stored) == set(state)
    assert all(torch.isfinite(t).all() for t in stored.values())
    assert torch.equal(state["token_embedding.weight"], stored["token_embedding.weight"].float())
    assert model.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-5)


def test_preprocessing_is_that_of_the_trunk():
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{ASSETS}")
    white = preprocess(Image.new("RGB", (300, 260), (255, 255, 255)))
    assert white.shape == (3, 224, 224)
    assert torch.allclose(white, torch.ones(3, 224, 224))  # (1 - 0.5) / 0.5


@torch.no_grad()
def test_both_towers_give_unit_vectors_of_one_space(model, tokenizer):
    text = model.encode_text(
        tokenizer(["pneumonia", "benign colon tissue", "a zebra on a bicycle"]), normalize=True
    )
    image = model.encode_image(torch.randn(2, 3, 224, 224), normalize=True)
    assert text.shape == (3, 256)
    assert image.shape == (2, 256)
    assert torch.allclose(torch.cat([text, image]).norm(dim=-1), torch.ones(5), atol=1e-5)


@torch.no_grad()
def test_text_tower_keeps_near_meanings_near(model, tokenizer):
    texts = ["lung adenocarcinoma", "adenocarcinoma of the lung", "a normal chest X-ray"]
    a, b, c = model.encode_text(tokenizer(texts), normalize=True)
    assert a @ b > a @ c + 0.1


@torch.no_grad()
def test_padding_after_the_end_token_changes_nothing(model, tokenizer):
    tokens = tokenizer(["no finding."])
    other = tokens.clone()
    other[other == 0] = 7
    assert torch.allclose(model.encode_text(tokens), model.encode_text(other), atol=1e-6)


def test_end_token_is_the_last_id_and_argmax_finds_it(tokenizer):
    tokens = tokenizer(["pneumonia", "lung squamous cell carcinoma.", "word " * 80])
    assert tokens.shape == (3, 40)
    assert tokenizer.tokenizer.eos_token_id == len(tokenizer.tokenizer) - 1 == 3399
    assert tokenizer.tokenizer.pad_token_id == 0
    assert (tokens[:, 0] == tokenizer.tokenizer.bos_token_id).all()
    ends = tokens.argmax(dim=-1)
    assert (tokens[torch.arange(3), ends] == 3399).all()
    assert ends[2] == 39  # a text that is too long is cut before the end token


@pytest.mark.parametrize("text", ["Größe", "漢字 и кириллица", "🫁 ☢", "n/a (§4) <b>", "β-catenin ↑"])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.tokenizer(text).input_ids
    assert tokenizer.tokenizer.unk_token_id is None
    assert tokenizer.tokenizer.decode(ids[1:-1]).strip() == text.lower()


def test_a_class_name_has_the_same_pieces_after_a_filler(tokenizer):
    alone = tokenizer.tokenizer("COVID-19.").input_ids
    filler = tokenizer.tokenizer("X").input_ids
    assert len(filler) == 3  # start, one piece, end
    after = tokenizer.tokenizer("X X X COVID-19.").input_ids
    assert after == [alone[0], *filler[1:2] * 3, *alone[1:]]


def test_disjointness_check_finds_shared_pixels_and_subjects(pairs):
    def record(subject: str, digest: str):
        return pairs.Record(Path(f"{digest}.jpg"), "cxr3/pneumonia", subject, digest)

    left = [record("cxr3:p1", "a"), record("cxr3:p2", "b")]
    pairs.assert_disjoint(left, [record("cxr3:p3", "c")])
    with pytest.raises(ValueError, match="digest"):
        pairs.assert_disjoint(left, [record("cxr3:p3", "b")])
    with pytest.raises(ValueError, match="subject"):
        pairs.assert_disjoint(left, [record("cxr3:p1", "c")])
    with pytest.raises(ValueError, match="both sides"):
        pairs.assert_disjoint(left, [])


def test_pixel_digest_sees_through_the_file_format(pairs, tmp_path):
    image = Image.new("L", (5, 3), 77)
    image.save(tmp_path / "a.png")
    image.convert("RGB").save(tmp_path / "b.bmp")
    image.resize((3, 5)).save(tmp_path / "c.png")
    a, b, c = (pairs.pixel_digest(tmp_path / n) for n in ("a.png", "b.bmp", "c.png"))
    assert a == b != c


def test_table_records_split_by_the_split_column(pairs, tmp_path):
    folder = tmp_path / "cxr3_224"
    folder.mkdir()
    rows = [("a.png", "p1", "pretrain"), ("b.png", "p2", "train"), ("c.png", "p3", "test")]
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient", "split"])
        for value, (name, patient, split) in enumerate(rows):
            Image.new("L", (4, 4), value).save(folder / name)
            writer.writerow([name, "pneumonia", patient, split])
    pretrain_side, downstream = pairs.table_records(tmp_path, "cxr3")
    assert [r.path.name for r in pretrain_side] == ["a.png"]
    assert [r.subject for r in downstream] == ["cxr3:p2", "cxr3:p3"]


def test_captions_cover_every_group():
    texts = OmegaConf.to_container(OmegaConf.load(PRETRAINING / "captions.yaml"))
    groups = {"cxr3": ["no_finding", "pneumonia", "covid19"], "vqa_rad": ["head", "chest", "abd"]}
    groups["lc25000"] = ["colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"]
    assert set(texts["captions"]) == {
        f"{folder}/{name}" for folder, names in groups.items() for name in names
    }
    for group, captions in texts["captions"].items():
        assert len(captions) == len(set(captions)) >= 5, group


def test_report_matches_the_captions_and_the_images_in_the_data(pairs):
    report = json.loads((ASSETS / "pretraining_report.json").read_text())
    assert (
        report["captions_sha256"] == hashlib.sha256((PRETRAINING / "captions.yaml").read_bytes()).hexdigest()
    )
    if not (DATA / "cxr3_224" / "labels.csv").is_file():
        pytest.skip("the pretraining images are not next to the repository")
    with open(DATA / "cxr3_224" / "labels.csv", newline="") as file:
        wanted = sum(row["split"] == "pretrain" for row in csv.DictReader(file))
    assert sum(n for group, n in report["images"].items() if group.startswith("cxr3/")) == wanted


def test_unknown_setting_is_refused(pretrain, tmp_path):
    assert pretrain.load_settings(PRETRAINING / "config.yaml", ["distill.steps=7"]).distill.steps == 7
    (tmp_path / "bad.yaml").write_text("distill: {stepps: 7}\n")
    with pytest.raises(Exception, match="stepps"):
        pretrain.load_settings(tmp_path / "bad.yaml")


def test_contrastive_loss_merges_equal_captions(pretrain):
    image = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = pretrain.contrastive_loss(image, text, torch.tensor([0, 0, 1]), scale=1.0)
    e = math.e
    to_text = (2 * -math.log(2 * e / (2 * e + 1)) - math.log(e / (e + 2))) / 3
    to_image = (2 * -math.log(e / (2 * e + 1)) - math.log(e / (e + 2))) / 3
    assert loss.item() == pytest.approx((to_text + to_image) / 2, rel=1e-5)


def test_folded_projection_equals_standardise_then_project(pretrain):
    torch.manual_seed(0)
    features = torch.randn(20, 7) * 3 + 1
    projections = pretrain.Projections(features, text_width=5, embed_dim=4, dropout=0.5).eval()
    weight, bias = projections.folded()
    direct = torch.nn.functional.normalize(features @ weight.T + bias, dim=-1)
    assert torch.allclose(direct, projections.encode_image(features), atol=1e-6)
