import pytest

from calib.core.byname import REQUIRED, bind, settings, tensors


def weighted(logits, labels, mask=None, *, alpha=0.5, power, strict=False):
    total = sum(z * y for z, y in zip(logits, labels, strict=True)) * alpha**power
    return -total if mask is None else total


def open_ended(logits, **options):
    return logits


def test_a_signature_is_read_as_tensors_and_settings():
    assert tensors(weighted) == {"logits": REQUIRED, "labels": REQUIRED, "mask": None}
    assert settings(weighted) == {"alpha": 0.5, "power": REQUIRED, "strict": False}


def test_a_call_picks_the_tensors_it_needs_and_ignores_others():
    bound = bind(weighted, {"power": 2}, name="loss 'weighted'")
    assert bound.needs == ("logits", "labels")
    assert bound.takes == ("logits", "labels", "mask")
    assert bound(labels=[3, 1], logits=[1, 2], images="unused") == -5 * 0.25
    assert bound(labels=[3, 1], logits=[1, 2], mask=[1, 1]) == 5 * 0.25


def test_settings_are_a_copy_of_what_was_given():
    given = {"power": 1}
    bound = bind(weighted, given, name="loss 'weighted'")
    given["power"] = 3
    assert bound(logits=[1], labels=[1]) == -0.5


@pytest.mark.parametrize("absent", [{}, {"labels": None}])
def test_a_missing_tensor_is_named_with_what_was_given(absent):
    bound = bind(weighted, {"power": 1}, name="loss 'weighted'")
    with pytest.raises(ValueError, match=r"loss 'weighted' needs labels; given: logits\."):
        bound(logits=[1], **absent)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"power": 1, "alhpa": 0.1},
            r"setting of loss 'w' 'alhpa'. Did you mean 'alpha'\? Known: alpha, power",
        ),
        ({"power": 1, "wieght": 0.1}, r"Did you mean 'weight'\?"),
        ({}, r"loss 'w' needs the settings power"),
        ({"power": 1, "alpha": "0.1"}, r"Setting 'alpha' of loss 'w' must be a finite number, got '0.1'"),
        ({"power": 1, "alpha": True}, r"'alpha' of loss 'w' must be a finite number, got True"),
        ({"power": 1, "alpha": float("nan")}, r"'alpha' of loss 'w' must be a finite number, got nan"),
        ({"power": 1, "strict": 1}, r"'strict' of loss 'w' must be true or false, got 1"),
    ],
)
def test_wrong_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        bind(weighted, given, name="loss 'w'", also=("weight",))


def test_a_function_without_settings_says_so():
    with pytest.raises(ValueError, match=r"score 'plain' has no settings, got 'alpha'"):
        bind(lambda logits: logits, {"alpha": 1}, name="score 'plain'")


def test_whole_numbers_stand_for_floats():
    assert bind(weighted, {"power": 1, "alpha": 2}, name="w")(logits=[1], labels=[1]) == -2


def test_open_ended_signatures_are_refused():
    with pytest.raises(ValueError, match=r"open_ended has \*args, \*\*kwargs or positional-only"):
        bind(open_ended, {}, name="loss 'open'")
