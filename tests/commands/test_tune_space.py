from __future__ import annotations

import importlib.util

import pytest

from calib.cli import main
from calib.commands.search.space import Choice, Span, search_of, tune_settings
from calib.processes.workers import environments_of


def test_ranges_lists_and_seeds() -> None:
    search = search_of(
        [
            "optim.lr=1e-4..1e-2:log",
            "loss.as.weight=0.0..0.1",
            "prompt.n_ctx=4..16",
            "data.batch_size=8..64:log",
            "preset=coop,ls",
            "data.shots=4",
            "seed=1..3",
        ]
    )
    assert search.space == {
        "optim.lr": Span(1e-4, 1e-2, log=True),
        "loss.as.weight": Span(0.0, 0.1),
        "prompt.n_ctx": Span(4, 16, whole=True),
        "data.batch_size": Span(8, 64, whole=True, log=True),
        "preset": Choice(("coop", "ls")),
    }
    assert (search.seeds, search.fixed) == ([1, 2, 3], ["data.shots=4"])
    config = search.config({"optim.lr": "0.003", "prompt.n_ctx": "5"}, 2)
    assert (config.optim.lr, config.prompt.n_ctx, config.data.shots, config.seed) == (0.003, 5, 4, 2)
    assert config.baselines == []
    assert search.command({"optim.lr": "0.003", "data.template": "a {}"}) == (
        "calib train data.shots=4 optim.lr=0.003 'data.template=a {}' seed=1"
    )


@pytest.mark.parametrize(
    ("span", "value", "text"),
    [
        (Span(0.00012345, 0.1), 0.00012345, "0.00012345"),  # rounding does not leave the range
        (Span(0.0, 1.0), 1 / 3, "0.3333"),
        (Span(1e-6, 1.0, log=True), 3.21987e-6, "3.22e-06"),
        (Span(1, 9, whole=True), 7, "7"),
    ],
)
def test_a_drawn_number_as_it_is_trained(span: Span, value: float, text: str) -> None:
    assert span.text(value) == text
    assert span.low <= float(text) <= span.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=0.1..0.2"], "Did you mean 'optim.lr'"),
        (["optim.lr=0.0..0.1"], "optim.lr must be above 0, got 0.0"),
        (["optim.lr=0.2..0.1"], "optim.lr=0.2..0.1: the first bound must be below the second"),
        (["optim.lr=0..1e-2:log"], "a logarithmic range begins above 0"),
        (["optim.lr=1e-3,1e-2:log"], "written optim.lr=LOW..HIGH or optim.lr=LOW..HIGH:log"),
        (["data.shots=0..8"], "data.shots must be at least 1, got 0"),
        (["prompt.n_ctx=4.5..16"], "prompt.n_ctx"),
        (["optim.name=sgd,adm"], "Unknown value of optim.name 'adm'"),
        (["preset=coop,coop"], "preset=coop,coop lists a value twice"),
        (["optim.lr=0.1..0.2", "optim.lr=1"], "'optim.lr' is given twice"),
        (["seed=1..3"], "Nothing to search"),
        (["optim.lr=0.1..0.2", "seed=a"], "seeds are whole numbers"),
        (["optim.lr=0.1..0.2", "seed=1,1"], "different seeds"),
        (["optim.lr=0.1..0.2", "baselines=[coop]"], "A search has no baselines"),
        (["optim.lr=0.1..0.2", "calibrate.method=none"], "data.val_shots must be above 0, or calibrate"),
        (["data.val_shots=0..8", "calibrate.method=none"], "data.val_shots must be above 0, or"),
        (["calibrate.method=auto,none"], "data.val_shots must be above 0, or"),
        (["data.val_shots=0..4"], "cannot be compared. Let data.val_shots be above 0 for all"),
        (["optim.lr=0.1..0.2", "overwrite=true"], "give another folder"),
        (["optim.lr=0.1..0.2", "task=failure"], "task 'failure'"),
        (["optim.lr=0.1..0.2", "by=ecce"], "Unknown value of by 'ecce'. Did you mean 'ece'"),
        (["optim.lr=0.1..0.2", "trials=0"], "trials must be at least 1"),
        (["optim.lr=0.1..0.2", "workers=0"], "workers must be at least 1"),
        (["optim.lr=0.1..0.2", "trials=many"], "trials=many"),
    ],
)
def test_bad_searches_are_named_before_torch_is_imported(arguments: list[str], message: str, capsys) -> None:
    assert main(["tune", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_optuna_is_said_with_what_to_install(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "optuna" else find(name, *rest)
    )
    with pytest.raises(ValueError, match=r"pip install 'optuna>=4\.2'"):
        tune_settings(["optim.lr=0.1..0.2"])


def test_other_metrics_seeds_and_bounds_are_another_search() -> None:
    arguments = ["optim.lr=1e-4..1e-2:log", "data.shots=4", "log.project=mine"]
    same = search_of(arguments).identity()
    assert search_of([*arguments[:2], "log.project=x", "trials=99", "workers=3"]).identity() == same
    others = [
        [*arguments, "by=ece"],
        [*arguments, "seed=1,2"],
        ["optim.lr=1e-4..1e-1:log", *arguments[1:]],
        [arguments[0], "data.shots=8"],
    ]
    assert all(search_of(other).identity() != same for other in others)


def test_one_device_per_worker() -> None:
    assert environments_of(1, ["2", "5"], cores=4) == [{"CUDA_VISIBLE_DEVICES": "2"}]
    assert environments_of(3, [], cores=2) == [{"OMP_NUM_THREADS": "1"}] * 3
    with pytest.raises(ValueError, match="workers=3 is more than the 2"):
        environments_of(3, ["0", "1"], cores=4)
