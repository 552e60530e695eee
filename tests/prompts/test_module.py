from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import normalize

from calib.backbones.fast import kernels
from calib.data import FeatureTable, FewShotDataModule
from calib.losses import Objective
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.stack import PromptStackModule, StackedLoader, StackedPrompt
from calib.prompts.zero_shot import zero_shot_features
from calib.training.optim import lr_after_constant_warmup

NAMES = ["covid", "normal", "lung opacity"]
OPTIMIZER = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
CALIBPROMPT = {"ce": {}, "smac": {"alpha": 0.05}, "as": {"weight": 0.5}}


def features(backbone, n: int = 11) -> FeatureTable:
    generator = torch.Generator().manual_seed(3)
    plain = normalize(torch.randn(n, backbone.embed_dim, generator=generator), dim=-1)
    views = normalize(torch.randn(n, 2, backbone.embed_dim, generator=generator), dim=-1)
    ids = [f"{i:064x}" for i in range(n)]
    return FeatureTable(plain, torch.arange(n) % 3, ids, ids, augmented_features=views)


def module_for(backbone, terms=None, **options) -> PromptTuningModule:
    learner = PromptLearner(backbone, NAMES, n_ctx=3, seed=1)
    zero_shot = zero_shot_features(backbone, NAMES, "a {}.")
    return PromptTuningModule(
        backbone,
        learner,
        Objective(terms or CALIBPROMPT),
        zero_shot,
        optimizer=OPTIMIZER,
        warmup_lr=0.01,
        **options,
    )


def data_for(backbone, **options) -> FewShotDataModule:
    table = features(backbone)
    return FewShotDataModule(table, table, batch_size=4, seed=5, **options)


def trainer(folder: Path, epochs: int, **options) -> Trainer:
    last = ModelCheckpoint(
        dirpath=folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    quiet = {
        "logger": False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[last], default_root_dir=folder, **quiet, **options
    )


def test_training_equals_the_plain_loop(small, tmp_path: Path) -> None:
    clip = small("clip")
    module, data = module_for(clip), data_for(clip)
    trainer(tmp_path, 3).fit(module, data)

    learner, objective = PromptLearner(clip, NAMES, n_ctx=3, seed=1), Objective(CALIBPROMPT)
    table, loader = features(clip), data_for(clip).train_dataloader()
    optimizer = torch.optim.SGD([learner.context], lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        factor = lr_after_constant_warmup(epoch, max_epochs=3, warmup_epochs=1, warmup_factor=0.2)
        optimizer.param_groups[0]["lr"] = 0.05 * factor
        loader.batch_sampler.set_epoch(epoch)
        for index in loader.batch_sampler:
            images = table.augmented_features[index, epoch % 2]
            text = learner(clip)
            logits = clip.logit_scale.exp() * images @ text.T
            total = objective(logits=logits, labels=table.labels[index], text_features=text)["total"]
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    assert not torch.allclose(learner.context, PromptLearner(clip, NAMES, n_ctx=3, seed=1).context, atol=1e-3)
    assert torch.allclose(module.learner.context, learner.context, atol=1e-6)


def test_resuming_equals_going_through(small, tmp_path: Path) -> None:
    clip = small("clip")
    whole, cut, rest = module_for(clip), module_for(clip), module_for(clip)
    trainer(tmp_path / "whole", 6).fit(whole, data_for(clip))
    stopping = trainer(tmp_path / "cut", 6)
    cut.on_train_epoch_start = lambda: setattr(stopping, "should_stop", stopping.current_epoch >= 2)  # type: ignore
    stopping.fit(cut, data_for(clip))
    again = trainer(tmp_path / "cut", 6)
    again.fit(rest, data_for(clip), ckpt_path=str(tmp_path / "cut" / "last.ckpt"))
    assert again.current_epoch == 6
    assert torch.equal(rest.learner.context, whole.learner.context)
    assert not torch.equal(cut.learner.context, whole.learner.context)


def test_a_clipped_gradient_is_that_of_a_prompt_alone(small, tmp_path: Path) -> None:
    """The gradients of all prompts side by side were clipped as one: each learned less than alone."""
    clip = small("clip")
    limit = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "norm"}
    alone = module_for(clip)
    trainer(tmp_path, 2, **limit).fit(alone, data_for(clip))
    learners = [PromptLearner(clip, NAMES, n_ctx=3, seed=seed) for seed in (1, 2)]
    own = {key: value for key, value in OPTIMIZER.items() if key != "name"}
    prompts = [StackedPrompt(one, Objective(CALIBPROMPT), own, warmup_lr=0.01) for one in learners]
    beside = PromptStackModule(clip, prompts, zero_shot_features(clip, NAMES, "a {}."))
    batches = StackedLoader([data_for(clip).train_dataloader() for _ in prompts])
    trainer(tmp_path, 2, **limit).fit(beside, batches)
    assert torch.allclose(learners[0].context, alone.learner.context, atol=1e-6)
    free = module_for(clip)
    trainer(tmp_path, 2).fit(free, data_for(clip))
    assert not torch.allclose(free.learner.context, alone.learner.context, atol=1e-4)  # there is much to clip


def test_a_checkpoint_holds_the_context_and_no_backbone(small, tmp_path: Path) -> None:
    clip = small("clip")
    module = module_for(clip)
    trainer(tmp_path, 1).fit(module, data_for(clip))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert list(saved["state_dict"]) == ["learner.context"]
    assert (tmp_path / "last.ckpt").stat().st_size < 50_000


def test_a_checkpoint_of_another_prompt_is_refused(small, tmp_path: Path) -> None:
    clip = small("clip")
    trainer(tmp_path, 1).fit(module_for(clip), data_for(clip))
    other = module_for(clip)
    other.learner = PromptLearner(clip, NAMES, n_ctx=2)
    with pytest.raises(ValueError, match=r"context has shape \(3, 24\), this run's has \(2, 24\)"):
        trainer(tmp_path, 2).fit(other, data_for(clip), ckpt_path=str(tmp_path / "last.ckpt"))


def test_a_loss_that_is_not_a_number_stops_training_with_its_name(small, tmp_path: Path) -> None:
    clip = small("clip")
    module = module_for(clip)
    with torch.no_grad():
        module.learner.context[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"stopped in epoch 0.*ce = nan, smac = nan, as = nan"):
        trainer(tmp_path, 2).fit(module, data_for(clip))
    assert not (tmp_path / "last.ckpt").exists()


def test_losses_about_zero_shot_get_its_logits(small, tmp_path: Path) -> None:
    clip = small("clip")
    module = module_for(clip, {"zs_norm": {}, "penalty": {}, "text_moment_matching": {}})
    before = module.learner.context.detach().clone()
    trainer(tmp_path, 2).fit(module, data_for(clip))
    assert not torch.equal(before, module.learner.context)


def test_metrics_of_the_validation_images_are_logged(small, tmp_path: Path) -> None:
    clip = small("clip")
    module = module_for(clip)
    run = trainer(tmp_path, 2)
    run.fit(module, data_for(clip))
    table = features(clip)
    with torch.no_grad():
        logits = clip.logit_scale.exp() * table.image_features @ module.text_features().T
    accuracy = (logits.argmax(dim=1) == table.labels).float().mean()
    nll = torch.nn.functional.cross_entropy(logits, table.labels)
    assert run.callback_metrics["val/accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    assert run.callback_metrics["val/nll"] == pytest.approx(nll.item(), abs=1e-4)
    assert {"train/ce", "train/smac", "train/as", "train/total", "val/ece"} <= run.callback_metrics.keys()


@pytest.mark.skipif(not kernels._works(), reason="this PyTorch has no packed linear layers")
def test_mkl_packs_for_steps_of_the_whole_stack_only(small, monkeypatch) -> None:
    """Folds have fewer batches: weights packed for these steps too would be there twice."""
    if not torch.backends.mkl.is_available():
        pytest.skip("this PyTorch has no MKL")
    monkeypatch.setattr(kernels, "_library", lambda: "mkl")
    monkeypatch.setenv("CALIB_LINEAR", "packed")
    clip, packed = small("clip"), []
    pack = kernels._pack_mkl
    monkeypatch.setattr(kernels, "_pack_mkl", lambda *given: packed.append(given[-1]) or pack(*given))
    learners = [PromptLearner(clip, NAMES, n_ctx=3, seed=seed) for seed in (1, 2)]
    prompts = [StackedPrompt(learner, Objective(CALIBPROMPT), {"lr": 0.05}) for learner in learners]
    module = PromptStackModule(clip, prompts, zero_shot_features(clip, NAMES, "a {}."))
    batch = {"image_features": features(clip).image_features, "labels": torch.arange(11) % 3}
    module.training_step([batch, None], 0).backward()
    assert not packed
    assert learners[0].context.grad.abs().sum() > 0
    alone = learners[0].context.grad.clone()
    learners[0].context.grad = None
    module.training_step([batch, batch], 0).backward()
    assert packed
    torch.testing.assert_close(learners[0].context.grad, alone, atol=1e-5, rtol=1e-4)
    before = len(packed)
    module.training_step([None, batch], 0).backward()
    module.training_step([batch, batch], 0).backward()
    assert len(packed) == before
