from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import normalize

from calib.failure.cases import FailureCases
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.losses.failure import failure_bce, tcp_regression
from calib.metrics.failure import aurc, auroc
from calib.training.optim import lr_after_linear_warmup

N, C, D = 23, 3, 8
SCALE = math.log(20)
OPTIMIZER = {"name": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 0.01}


def cases(seed: int = 0, views: int = 0) -> FailureCases:
    generator = torch.Generator().manual_seed(seed)
    texts = normalize(torch.randn(C, D, generator=generator), dim=1)
    labels = torch.arange(N) % C
    images = normalize(texts[labels] + 0.6 * torch.randn(1 + views, N, D, generator=generator), dim=2)
    return FailureCases.of(images, labels, texts, logit_scale=SCALE)


def head(**options: Any) -> ViLU:
    torch.manual_seed(4)
    return ViLU(D, logit_scale=SCALE, hidden=(6,), **options)


def module(data: FailureCases, one: ViLU, **options: Any) -> FailurePredictionModule:
    given = {"optimizer": OPTIMIZER, "warmup_epochs": 2, "warmup_lr": 0.02, **options}
    return FailurePredictionModule(one, data.text_features, **given)


def trainer(folder: Path, epochs: int) -> Trainer:
    last = ModelCheckpoint(
        dirpath=folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[last],
        default_root_dir=folder,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_cases_judge_every_view_by_itself() -> None:
    data = cases(views=2)
    assert data.logits.shape == (3, N, C)
    expected = 20 * data.image_features[2] @ data.text_features[0].T
    assert torch.allclose(data.logits[2], expected, atol=1e-4)
    assert torch.equal(data.failure, data.logits[0].argmax(1) != data.labels)
    index = torch.tensor([5, 2])
    batch = data[(4, index)]  # epoch 4 of three views: view 1
    assert torch.equal(batch["image_features"], data.image_features[1, index])
    assert torch.equal(batch["predictions"], data.logits[1, index].argmax(1))
    plain = next(iter(data.batches(50)))
    assert torch.equal(plain["image_features"], data.image_features[0])


def test_given_predictions_decide_what_is_wrong() -> None:
    data = cases()
    picked = (data.labels + 1) % C
    again = FailureCases.of(
        data.image_features[0], data.labels, data.text_features[0], logit_scale=SCALE, predictions=picked
    )
    assert again.failure.all()


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({}, {"loss_settings": {"weighting": "adaptive"}}),
        ({"residual": True}, {"loss_settings": {"weighting": "balanced"}}),
        ({"residual": True, "keep_frozen": False, "n_iter_freeze_proj": 3}, {}),
        ({"use_attention": False, "use_predicted_caption": False}, {"loss": "tcp"}),
    ],
)
def test_training_equals_the_plain_loop(
    options: dict[str, Any], loss: dict[str, Any], tmp_path: Path
) -> None:
    data, trained, plain = cases(views=1), head(**options), head(**options)
    trainer(tmp_path, 4).fit(module(data, trained, **loss), data.batches(10, seed=5))

    optimizer = torch.optim.SGD(plain.parameter_groups(0.01), lr=0.2, momentum=0.9)
    loader = data.batches(10, seed=5)
    plain.train()
    for epoch in range(4):
        risen = 0.1 + 0.9 * min(epoch / 2, 1)
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * risen * (1 + math.cos(math.pi * epoch / 4)) / 2
        loader.batch_sampler.set_epoch(epoch)
        for index in loader.batch_sampler:
            images, labels = data.image_features[epoch % 2, index], data.labels[index]
            logits = 20 * images @ data.text_features[0].T
            wrong = logits.argmax(1) != labels
            out = plain(images, data.text_features[0])
            if loss.get("loss") == "tcp":
                value = tcp_regression(out, logits, labels, wrong)
            else:
                value = failure_bce(out, wrong, **loss.get("loss_settings", {}))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    start, end = head(**options).state_dict(), plain.state_dict()
    assert any(not torch.allclose(value, start[name], atol=1e-3) for name, value in end.items())
    for name, value in trained.state_dict().items():
        assert torch.allclose(value, end[name], atol=1e-6), name


def test_a_residual_head_starts_at_the_models_own_confidence() -> None:
    data = cases()
    logits = module(data, head(residual=True)).failure_logits(data[(0, torch.arange(N))])
    confidence = data.logits[0].double().softmax(1).max(1).values
    assert torch.allclose(logits.double(), torch.log((1 - confidence) / confidence), atol=1e-4)


def test_every_image_is_judged_by_the_texts_it_belongs_to() -> None:
    first, second = cases(0), cases(1)
    joined = FailureCases.join([first, second])
    assert joined.source.tolist() == [0] * N + [1] * N
    one = head().eval()
    order = torch.randperm(2 * N, generator=torch.Generator().manual_seed(0))
    logits = module(joined, one).failure_logits(joined[(0, order)])
    expected = torch.cat(
        [one(part.image_features[0], part.text_features[0], part.predictions[0]) for part in (first, second)]
    )
    assert torch.allclose(logits, expected[order], atol=1e-5)
    assert torch.equal(joined.failure, torch.cat([first.failure, second.failure]))


def test_resuming_equals_going_through(tmp_path: Path) -> None:
    data = cases(views=1)
    options = {"keep_frozen": False, "n_iter_freeze_proj": 7}
    whole, cut, rest = (module(data, head(**options)) for _ in range(3))
    trainer(tmp_path / "whole", 6).fit(whole, data.batches(10, seed=5))
    stopping = trainer(tmp_path / "cut", 6)
    cut.on_train_epoch_start = lambda: setattr(stopping, "should_stop", stopping.current_epoch >= 2)  # type: ignore
    stopping.fit(cut, data.batches(10, seed=5))
    again = trainer(tmp_path / "cut", 6)
    again.fit(rest, data.batches(10, seed=5), ckpt_path=str(tmp_path / "cut" / "last.ckpt"))
    for name, value in whole.head.state_dict().items():
        assert torch.equal(rest.head.state_dict()[name], value), name
    assert int(rest.head.iteration_count) == 18


def test_a_checkpoint_holds_the_head_alone_and_fits_no_other(tmp_path: Path) -> None:
    data = cases()
    trainer(tmp_path, 1).fit(module(data, head()), data.batches(10, seed=5))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"head.{name}" for name in head().state_dict()}
    other = module(data, head(concat=False))
    with pytest.raises(ValueError, match=r"another head: head.mlp.0.weight is \(6, 24\) there and \(6, 16\)"):
        trainer(tmp_path, 2).fit(other, data.batches(10, seed=5), ckpt_path=str(tmp_path / "last.ckpt"))


def test_metrics_of_the_validation_images_are_logged(tmp_path: Path) -> None:
    data, val, trained = cases(0), cases(1), head()
    run = trainer(tmp_path, 2)
    run.fit(module(data, trained), data.batches(10, seed=5), FailureCases.of(
        val.image_features[0], val.labels, data.text_features[0], logit_scale=SCALE
    ).batches(9))  # fmt: skip
    judged = FailureCases.of(val.image_features[0], val.labels, data.text_features[0], logit_scale=SCALE)
    with torch.no_grad():
        logits = trained.eval()(judged.image_features[0], data.text_features[0])
    assert run.callback_metrics["val/auroc"] == pytest.approx(auroc(logits, judged.failure).item(), abs=1e-6)
    assert run.callback_metrics["val/aurc"] == pytest.approx(aurc(logits, judged.failure).item(), abs=1e-6)
    assert "train/bce" in run.callback_metrics


def test_a_loss_that_is_not_a_number_stops_training_with_its_name(tmp_path: Path) -> None:
    data, broken = cases(), head()
    with torch.no_grad():
        broken.mlp[0].weight[0, 0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(FloatingPointError, match=r"stopped in epoch 0.*bce = nan"):
        trainer(tmp_path, 2).fit(module(data, broken), data.batches(10, seed=5), data.batches(9))
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "bec"}, "Unknown failure loss 'bec'. Did you mean 'bce'"),
        ({"loss_settings": {"weightin": "static"}}, "Did you mean 'weighting'"),
        ({"loss_settings": {"weight": "much"}}, "must be a finite number"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(cases(), head(), **options)


def test_the_learning_rate_is_that_of_the_release() -> None:
    """Closed form of LinearLR(0.1, 5 epochs) chained with CosineAnnealingLR(T_max=15)."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    chained = torch.optim.lr_scheduler.ChainedScheduler(
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=5),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15),
        ]
    )
    for epoch in range(15):
        factor = lr_after_linear_warmup(epoch, max_epochs=15, warmup_epochs=5, start=0.1)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        chained.step()
    assert lr_after_linear_warmup(0, max_epochs=9, warmup_epochs=0, start=0.1) == 1.0
