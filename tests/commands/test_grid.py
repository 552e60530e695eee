from __future__ import annotations

import pytest

from calib.commands.search.grid import expand, values_of


def names(*arguments: str, **options) -> list[str]:
    return [point.name for point, _ in expand(arguments, **options)]


def test_all_combinations_the_last_key_fastest_and_seeds_last() -> None:
    points = expand(["seed=1..2", "loss.smac.alpha=0.05,0.2", "data.shots=4", "optim.lr=0.001,0.002"])
    assert len(points) == 8
    first, second, third = points[0][1], points[1][1], points[2][1]
    assert [c.seed for c in (first, second, third)] == [1, 2, 1]
    assert [c.optim.lr for c in (first, second, third)] == [0.001, 0.001, 0.002]
    assert {c.data.shots for _, c in points} == {4}
    assert all(c.baselines == [] for _, c in points)
    assert points[0][0].without_seed() == "loss.smac.alpha=0.05 optim.lr=0.001"
    assert len({point.name for point, _ in points}) == 8


def test_lists_and_quoted_text_are_one_value() -> None:
    assert values_of("[a,b],[c]") == ["[a,b]", "[c]"]
    assert values_of("{a: 1, b: 2}") == ["{a: 1, b: 2}"]
    assert values_of('"a, b",c') == ['"a, b"', "c"]
    assert values_of("-1..1") == ["-1", "0", "1"]
    assert values_of("") == [""]


def test_a_random_sample_keeps_all_seeds_of_each_combination() -> None:
    arguments = ["optim.lr=0.001,0.002,0.003", "data.views=0,1,2,3", "seed=1..3"]
    drawn = expand(arguments, samples=4, seed=7)
    assert len(drawn) == 12
    kept = {point.without_seed() for point, _ in drawn}
    assert len(kept) == 4
    assert kept == {point.without_seed() for point, _ in expand(arguments, samples=4, seed=7)}
    assert kept != {point.without_seed() for point, _ in expand(arguments, samples=4, seed=8)}
    assert len(names(*arguments, samples=99)) == 36


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1", "seed=2"], "'seed' is given twice. Write all its values at once: seed=A,B"),
        (["baselines=[coop]"], "A sweep has no baselines.*preset=calibprompt,coop"),
        (["optim.lr=0.1,fast"], "optim.lr"),
        (["optim.lrr=0.1,0.2"], "Did you mean 'optim.lr'"),
        (["seed=1,2,1"], "seed=1,2,1 lists a value twice"),
        (["preset=coop,ls,coop"], "lists a value twice"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(arguments)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=5..1", r"The range '5\.\.1' is upside down: write 1\.\.5"),
        ("data.shots=4,", "The list '4,' has an empty item"),
        ("seed=1,,2", "The list '1,,2' has an empty item"),
    ],
)
def test_lists_and_ranges_that_say_something_else_are_refused(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand([argument])


def test_points_whose_values_read_alike_have_folders_of_their_own() -> None:
    same = ["data.template='a {}','a, {}','a? {}'", "seed=1..2"]
    found = names(*same)
    assert len(set(found)) == 6
    assert found == names(*same)
    assert len({name.casefold() for name in names("prompt.init=Scan,scan", "prompt.n_ctx=1")}) == 2
    plain = names("data.template='a {}','b {}'")
    assert plain == ["data.template-_a", "data.template-_b"]


def test_a_folder_name_is_never_longer_than_a_file_system_takes() -> None:
    long = names(f"data.template='{'病' * 90} {{}}','{'病' * 90}, {{}}','b {{}}'")
    assert len(set(long)) == 3
    assert all(len(name.encode()) <= 200 for name in long)
