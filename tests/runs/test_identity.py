from __future__ import annotations

from calib.config import FailureRun, PromptRun, load_config
from calib.runs.identity import run_name


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
