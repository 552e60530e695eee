"""A failure head from a notebook: no settings, no run folder, no word, and the head of the command."""

from __future__ import annotations

import inspect
import random
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from torch.nn.functional import normalize
from toy_head import SMALL, C, D, N, prompt, table

from calib.commands.failure.run import loss_settings
from calib.config import FailureRun
from calib.failure.cases import FailureCases
from calib.failure.data import FrozenClassifier
from calib.failure.evaluation import head_uncertainty
from calib.failure.export import FailureHead
from calib.failure.fit import fit_failure_head, fit_head, new_head
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.metrics.failure import auroc


def same(one: FailureHead, other: FailureHead) -> bool:
    return all(torch.equal(v, other.head.state_dict()[k]) for k, v in one.head.state_dict().items())


def test_a_head_learns_what_the_prompt_does_not_know() -> None:
    judged, test = prompt(), table(1)
    head = fit_failure_head(judged, table(0), epochs=20, batch_size=8, residual=False, hidden=(32,))
    said = judged.predict(test)
    picked = said.logits.argmax(1)
    wrong = picked != test.labels
    for by in ("head", None):  # the stack would be as good without it
        doubt = head.uncertainty(test.image_features, picked, by=by)
        assert float(auroc(doubt, wrong)) > 0.95
        assert float(auroc(doubt, wrong)) > float(auroc(1 - said.probs.max(1).values, wrong)) + 0.05
    head.check_prompt(judged)
    assert (
        head.explain(test.image_features, picked)
        .sentences(test_names := judged.class_names)[0]
        .startswith(f"Predicted {test_names[int(picked[0])]}, probability of being wrong")
    )
    assert head.training["images"] == N
    assert head.training["seed"] == 1


def test_the_seed_alone_decides_and_random_states_stay() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = fit_failure_head(prompt(), table(), **SMALL)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    torch.manual_seed(99)
    assert same(fit_failure_head(prompt(), table(), **SMALL), first)
    assert not same(fit_failure_head(prompt(), table(), seed=2, **SMALL), first)
    assert not first.head.training


def test_more_images_validate_than_are_learned_from() -> None:
    """Rows of the validation images were looked up among the folds of those that are learned from."""
    judged = prompt()
    seen, judges = (FailureCases.of_prompt(judged, each) for each in (table().subset(range(30)), table(1)))
    watched: list[float] = []

    def train(module: FailurePredictionModule, *batches: Any) -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.fit(module, *batches)
        watched.append(float(trainer.callback_metrics["val/auroc"]))

    made = new_head(D, logit_scale=judged.logit_scale, seed=1, hidden=(6,))
    head = fit_head(made, seen, FrozenClassifier.of(judged), train=train, val=judges)
    doubt = head_uncertainty(head, judges, by="head")
    assert watched == [pytest.approx(float(auroc(doubt, judges.failure)), abs=1e-6)]


def test_views_are_trained_on_in_turn() -> None:
    plain, views = (fit_failure_head(prompt(), table(views=v), **SMALL) for v in (0, 2))
    assert not same(plain, views)
    one = table(views=2)
    again = fit_failure_head(
        prompt(), replace(one, augmented_features=one.augmented_features[:, :1]), **SMALL
    )
    assert not same(again, views)
    means = plain.head.part_means(one.image_features, torch.eye(C, D))
    assert torch.allclose(plain.means["image"], means["image"], atol=1e-6)  # of the plain images


def test_a_trainer_of_ones_own_decides(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(trainer.current_epoch)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    trainer = Trainer(max_epochs=2, callbacks=[Watch()], enable_model_summary=False, **quiet)
    head = fit_failure_head(prompt(), table(), trainer=trainer, hidden=(6,))
    assert seen == [0, 1]
    assert same(head, fit_failure_head(prompt(), table(), epochs=2, hidden=(6,)))


def test_defaults_are_those_of_the_command() -> None:
    config = FailureRun()
    short = {k: p.default for k, p in inspect.signature(fit_failure_head).parameters.items()}
    assert short["epochs"] == config.trainer["max_epochs"]
    assert (short["seed"], short["batch_size"]) == (config.seed, config.data.batch_size)
    assert (short["doubt"], short["folds"]) == (config.doubt, config.folds)
    vilu = {k: p.default for k, p in inspect.signature(ViLU).parameters.items()} | {
        "residual": short["residual"]
    }
    assert {key: vilu[key] for key in asdict(config.head)} == {
        **asdict(config.head),
        "hidden": tuple(config.head.hidden),
    }
    given = {k: p.default for k, p in inspect.signature(fit_head).parameters.items()}
    assert given["loss"] == config.loss.name
    assert dict(given["loss_settings"]) == loss_settings(config.loss)
    optim = asdict(config.optim)
    assert {**given["optimizer"], **{key: given[key] for key in ("warmup_epochs", "warmup_lr")}} == optim
    for key in ("seed", "batch_size"):
        assert given[key] == short[key]
    assert given["drop_last"] == config.data.drop_last
    assert (given["doubt"], given["n_folds"]) == (config.doubt, config.folds)


@pytest.mark.parametrize(("shift", "kind"), [(0, "right"), (1, "wrong")])
def test_a_head_alone_refuses_predictions_of_one_kind(shift: int, kind: str) -> None:
    given = table()
    picked = prompt().logits(given.image_features).argmax(1)
    given = replace(given, labels=(picked + shift) % C)
    for doubt in ("head", "stack") if shift else ("head",):
        with pytest.raises(ValueError, match=f"All 90 training predictions are {kind}"):
            fit_failure_head(prompt(), given, doubt=doubt, **SMALL)


def test_what_does_not_fit_is_refused() -> None:
    narrow = replace(table(), image_features=normalize(table().image_features[:, :5], dim=1))
    for given, options, message in [
        (narrow, {}, r"must be \(N, 8\) for this prompt, and they are 5 wide"),
        (replace(table(), labels=table().labels + 1), {}, r"labels must lie in 0\.\.2, .* got 3"),
        (table(), {"activation": "rely"}, "Did you mean 'relu'"),
        (table(), {"hiden": (6,)}, "Unknown head option 'hiden'. Did you mean 'hidden'"),
        (table(), {"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_failure_head(prompt(), given, **{**SMALL, **options})


def test_interrupting_is_a_keyboard_interrupt_and_the_next_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(FailurePredictionModule, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        fit_failure_head(prompt(), table(), **SMALL)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_new_head_depends_on_its_seed_alone() -> None:
    torch.manual_seed(3)
    plain = ViLU(D, logit_scale=1.0, hidden=(6,))
    state = torch.get_rng_state()
    ours = new_head(D, logit_scale=1.0, seed=3, hidden=(6,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in ours.state_dict().items())


def test_cases_of_a_prompt_are_its_own_predictions() -> None:
    judged, given = prompt(temperature=2.0), table(views=2)
    cases = FailureCases.of_prompt(judged, given)
    assert cases.logits.shape == (3, N, C)
    assert torch.allclose(cases.logits[0], judged.logits(given.image_features), atol=1e-5)
    assert torch.equal(cases.image_features[2], given.augmented_features[:, 1])
