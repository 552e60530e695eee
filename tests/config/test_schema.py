"""What a setting affects and its bounds stand beside it: no setting is without, every bound is held."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field

import pytest

from calib.config import SCHEMAS, Affects, find_setting, keys_of, leaves, load_config
from calib.config.schema import DataConfig, LogConfig, PromptRun, Setting, setting

BOUNDED = [
    (task, key, one)
    for task, schema in SCHEMAS.items()
    for key, one in leaves(schema)
    if one.one_of or any(bound is not None for bound in (one.at_least, one.above, one.below))
]


@pytest.mark.parametrize("task", SCHEMAS)
def test_every_setting_says_what_it_affects(task: str) -> None:
    known = dict(leaves(SCHEMAS[task]))
    assert {"data.root" if task == "segment" else "data.name", "seed", "out"} <= known.keys()
    inside = [one for each in known.values() for one in each.keys.values()]
    assert {one.affects for one in [*known.values(), *inside]} <= {*typing.get_args(Affects)}


def test_a_setting_that_does_not_say_what_it_affects_is_refused() -> None:
    @dataclass
    class Toy:
        log: LogConfig = field(default_factory=LogConfig)
        colour: str = "red"

    with pytest.raises(TypeError, match=r"Toy.colour must say what it affects: setting\(..., affects="):
        keys_of(Toy)
    with pytest.raises(TypeError, match="affects"):
        setting("red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="at_most"):
        setting(1, affects="draw", at_most=2)


@pytest.mark.parametrize(("task", "key", "one"), BOUNDED, ids=lambda each: str(each)[:40])
def test_the_bounds_of_every_setting_are_held_and_named(task: str, key: str, one: Setting) -> None:
    def error(value: object) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared
            load_config([f"{key}={value}"], task=task)
        return str(caught.value)

    if one.one_of:
        for value in one.one_of:
            load_config([f"{key}={value}"], task=task)
        assert error(f"{one.one_of[0]}x").startswith(
            f"Unknown value of {key} '{one.one_of[0]}x'. Did you mean"
        )
    if one.at_least is not None:
        load_config([f"{key}={one.at_least}"], task=task)
        least = f"must be at least {one.at_least}"
        got = error(one.at_least - 1).replace(".0.", ".")  # of a float
        assert got == f"{key} {least}, got {one.at_least - 1}.".replace(".0.", ".")
    if one.above is not None:
        load_config([f"{key}={math.nextafter(one.above, math.inf)}"], task=task)
        side = "above 0" if one.below is None else "lie between 0 and 1"
        assert error(0.0) == f"{key} must {'be ' * (one.below is None)}{side}, got 0.0."
        assert error("nan").endswith("got nan.")
    if one.below is not None:
        side = f"be below {one.below}" if one.above is None else "lie between 0 and 1"
        whole = one.above is None
        load_config([f"{key}={one.below - 1 if whole else math.nextafter(one.below, 0)}"], task=task)
        assert error(one.below if whole else float(one.below)).startswith(f"{key} must {side}, got ")


def test_null_is_inside_every_bound() -> None:
    assert any(key == "data.shots" for _, key, _ in BOUNDED)
    assert load_config(["data.shots=null"], task="prompt").data.shots is None


def test_what_lies_in_a_dictionary_is_as_the_dictionary_unless_it_is_known() -> None:
    assert find_setting(PromptRun, "trainer.precision") is find_setting(PromptRun, "trainer")
    affects = {}
    for key in (
        "loss.smac.alpha",
        "trainer.max_time.minutes",
        "trainer.devices",
        "data.options.columns.label",
    ):
        one = find_setting(PromptRun, key)
        assert one is not None
        affects[key] = one.affects
    assert [*affects.values()] == ["own", "training", "nothing", "encoding"]
    assert find_setting(PromptRun, "optim") is None
    assert find_setting(PromptRun, "nothing.like.it") is None


def test_defaults_that_can_be_changed_are_nobody_elses() -> None:
    DataConfig().options["flag"] = "x"
    PromptRun().trainer["max_epochs"] = 3
    assert (DataConfig().options, PromptRun().trainer) == ({}, {"max_epochs": 50})
