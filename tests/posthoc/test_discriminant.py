"""The discriminant of the shots: against scikit-learn, and leaving out against fitting anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from calib.posthoc.discriminant import LinearDiscriminant, left_out_logits


def images(n: int, n_classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    means = torch.randn(n_classes, dim, generator=generator)
    return means[labels] + torch.randn(n, dim, generator=generator), labels


def test_probabilities_are_those_of_scikit_learn_with_the_same_covariance() -> None:
    features, labels = images(30, 3, 4)
    mine = LinearDiscriminant.fit(features, labels, 3, shrinkage=0.3)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
    theirs.fit(features.numpy(), labels.numpy())
    centred = (
        features.double() - torch.stack([features[labels == c].double().mean(0) for c in range(3)])[labels]
    )
    pooled = centred.T @ centred / (30 - 3)
    covariance = 0.7 * pooled + 0.3 * pooled.trace() / 4 * torch.eye(4).double()
    theirs.means_ = np.stack([features[labels == c].double().mean(0).numpy() for c in range(3)])
    theirs.coef_ = np.linalg.solve(covariance.numpy(), theirs.means_.T).T
    theirs.intercept_ = -0.5 * np.diag(theirs.means_ @ theirs.coef_.T) + np.log(1 / 3)
    expected = torch.from_numpy(theirs.predict_proba(features.numpy()))
    torch.testing.assert_close(mine.logits(features).softmax(dim=1), expected)


@pytest.mark.parametrize(
    ("n", "n_classes", "dim", "together"), [(24, 3, 40, 1), (12, 3, 5, 2), (30, 5, 8, 3), (10, 2, 6, 1)]
)
def test_leaving_out_equals_fitting_anew(n: int, n_classes: int, dim: int, together: int) -> None:
    features, labels = images(n, n_classes, dim)
    owners = [
        f"{row // (n_classes * together)}-{row % 2 if together == 3 else labels[row]}" for row in range(n)
    ]
    found = left_out_logits(features, labels, n_classes, owners=owners, shrinkage=0.6)
    for row in range(n):
        rest = [other for other in range(n) if owners[other] != owners[row]]
        if len(set(labels[rest].tolist())) == n_classes:
            anew = LinearDiscriminant.fit(features[rest], labels[rest], n_classes, shrinkage=0.6)
            torch.testing.assert_close(found[row], anew.logits(features[row : row + 1])[0])


def test_a_class_without_another_image_has_no_logit_and_the_others_have() -> None:
    features, labels = images(9, 3, 6)
    keep = [0, 1, 2, 3, 4, 6, 7]  # class 2 once
    found = left_out_logits(features[keep], labels[keep], 3)
    alone = labels[keep].tolist().index(2)
    assert found[alone, 2].isnan()
    assert found[alone, :2].isfinite().all()
    assert found[[row for row in range(len(keep)) if row != alone]].isfinite().all()


def test_one_image_per_class_is_a_nearest_mean() -> None:
    features, labels = images(4, 4, 7)
    one = LinearDiscriminant.fit(features, labels, 4)
    distances = torch.cdist(features.double(), features.double()).square()
    expected = -distances / 2 + features.double().square().sum(dim=1, keepdim=True) / 2
    torch.testing.assert_close(one.logits(features), expected)


def test_turning_the_axes_changes_no_logit() -> None:
    features, labels = images(12, 3, 5)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double())
    plain = left_out_logits(features.double(), labels, 3)
    torch.testing.assert_close(left_out_logits(features.double() @ turn, labels, 3), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 0, 1, 3])}, "labels must be from 0 to 2"),
        ({"labels": torch.tensor([0, 0, 1, 1])}, "none of class 2"),
        ({"labels": torch.tensor([0, 1, 2])}, r"got \(4, 2\) and \(3,\)"),
        ({"features": torch.full((4, 2), torch.nan)}, "NaN or infinite"),
        ({"shrinkage": 0.0}, "shrinkage must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given = {"features": torch.eye(4)[:, :2], "labels": torch.tensor([0, 1, 2, 0]), "shrinkage": 0.8} | change
    with pytest.raises(ValueError, match=message):
        LinearDiscriminant.fit(given["features"], given["labels"], 3, shrinkage=given["shrinkage"])  # type: ignore[arg-type]
