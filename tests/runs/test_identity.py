from __future__ import annotations

from calib.config import FailureRun, PromptRun, leaves, load_config
from calib.runs.identity import describe_differences, relevant_settings, run_name, settings_that_affect


def name(*changes: str) -> str:
    return run_name(load_config(list(changes), task="prompt"))


def test_default_folder_names_are_safe_for_any_file_system() -> None:
    assert name("backbone.name=local-dir:/some where/x", "data.shots=null") == (
        "local-dir_some_where_x-cxr3-calibprompt-all-s1"
    )


def test_own_images_are_named_by_their_folder() -> None:
    first, second = (name("data.name=folder", f"data.root=/{place}/skin lesions") for place in ("a", "b"))
    assert first != second
    assert first.startswith("embedded-skin_lesions-calibprompt-8shot-s1-")
    assert second.startswith("embedded-skin_lesions-calibprompt-8shot-s1-")


def test_runs_share_a_name_only_if_they_are_the_same_run() -> None:
    plain = run_name(PromptRun())
    settings = [
        "prompt.n_ctx=8",
        "data.root=x",
        "optim.lr=0.01",
        "optim.lr=0.02",
        "loss.smac.alpha=0.1",
        "loss.as.weight=0",
        "data.views=2",
    ]
    names = {name(change) for change in settings}
    assert len(names) == len(settings)
    assert all(one.startswith(f"{plain}-") for one in names)
    assert name("optim.lr=0.01", "data.views=2") == name("data.views=2", "optim.lr=0.01")
    assert name("overwrite=true", "data.cache_dir=x", "baselines=[]", "log.wandb=offline") == plain


def test_a_failure_run_is_named_after_the_prompt_it_judges() -> None:
    config = load_config(["prompt=runs/mine"], task="failure")
    assert run_name(config) == "failure-mine-all-s1"
    files = ["embeddings.train=a.npz", "embeddings.test=b.npz"]
    names = {run_name(load_config(files[:count], task="failure")) for count in (1, 2)}
    assert len(names) == 2
    assert all(one.startswith("failure-a-all-s1") for one in names)
    assert run_name(load_config(["prompt=runs/mine", "head.residual=false"], task="failure")) != run_name(
        config
    )
    assert run_name(FailureRun(data=config.data)).startswith("failure-embedded-")


def test_the_digits_of_a_name_do_not_change_from_version_to_version() -> None:
    assert name("loss.smac.alpha=0.1") == "embedded-cxr3-calibprompt-8shot-s1-1d9814"
    assert name("data.views=0") == "embedded-cxr3-calibprompt-8shot-s1-138710"


def test_what_affects_nothing_may_change_from_start_to_start() -> None:
    plain = PromptRun()
    moved = ["trainer.devices=2", "trainer.strategy=ddp", "log.tags=[a]", "data.cache_dir=x", "resume=false"]
    assert describe_differences(plain, load_config(moved, task="prompt")) == []
    other = load_config(["trainer.accelerator=cpu"], task="prompt")
    assert describe_differences(plain, other) == ["trainer.accelerator is not set there and 'cpu' here"]


def test_every_setting_that_matters_affects_one_thing() -> None:
    config = load_config(["loss.smac.alpha=0.1", "trainer.devices=2"], task="prompt")
    kinds = {one.affects for _, one in leaves(PromptRun)} - {"nothing"}
    parts = [settings_that_affect(kind, config) for kind in sorted(kinds)]
    together = {key: value for part in parts for key, value in part.items()}
    assert together == relevant_settings(config)
    assert sum(map(len, parts)) == len(together)
    assert settings_that_affect("own", config)["loss.smac.alpha"] == 0.1
