"""How much each of several experts is to be believed: a posterior over positive weights of their logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_labels, check_logits

DRAWS = 512  # a power of two: Sobol points are balanced then
LEAST_DRAWS = 32
BUDGET = 2**28  # numbers computed per round of draws at most
PIECE = 2**20  # numbers computed at once
DEGREES = 5  # of freedom of the proposal: heavier tails than the posterior's
ROUNDS = 3


@dataclass(frozen=True, eq=False)
class WeightPosterior:
    """The posterior over weights a_e > 0 in `softmax(sum_e a_e z_e + offset)`.

    Independent log-normal priors, and the likelihood of labelled rows. It is represented by draws from a
    Student-t distribution around the mode (quasi-random points, the same on every machine), weighted by
    importance, and adapted twice to their moments.

    Attributes:
        names: E names of the experts.
        draws: (M, E) weights.
        shares: (M,) of their posterior probability; they sum to 1.
        mode: (E,) the weights with the largest posterior density of log a.
        nearest: (E,) the single weights whose probabilities are nearest to the posterior's mean, in
            Kullback-Leibler divergence over the rows: what prediction uses, since it costs nothing there.
        effective: How many independent draws the weighted ones are worth: 1 / sum shares^2.
        left_out_nll: (N,) negative log-likelihood of each row under the posterior of the others.
        n: Rows that were used.

    Source: importance weights and their effective number, Kong 1992 (Univ. of Chicago technical report 348);
    the left-out likelihood as a harmonic mean, Gelfand 1996, in Markov Chain Monte Carlo in Practice, eq.
    9.8.
    """

    names: tuple[str, ...]
    draws: Tensor = field(repr=False)
    shares: Tensor = field(repr=False)
    mode: Tensor
    nearest: Tensor
    effective: float
    left_out_nll: Tensor = field(repr=False)
    n: int

    @property
    def mean(self) -> Tensor:
        """The posterior mean of each weight, (E,)."""
        return self.shares @ self.draws

    def probs(self, experts: Mapping[str, Tensor], offset: Tensor | None = None) -> Tensor:
        """Return the posterior mean of the probabilities, (N, C), for other rows of the same experts.

        Args:
            experts: Logits (N, C) by name.
            offset: (C,) as in `weight_posterior`.
        """
        logits = _stacked(experts, self.names)
        offset = _offset(offset, logits)
        return _mean_probs(logits, self.draws, self.shares, offset)


def weight_posterior(
    experts: Mapping[str, Tensor],
    labels: Tensor,
    *,
    median: float | Mapping[str, float] = 1.0,
    sd: float = 0.7,
    offset: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> WeightPosterior:
    """Return the posterior over the weights of one or several experts.

    Args:
        experts: Logits (N, C) by name, of rows the experts were not fitted on.
        labels: (N,) class indices.
        median: Of the log-normal prior of each weight.
        sd: Standard deviation of log a, above 0.
        offset: (C,) added to the weighted logits. None: 0.
        row_weights: (N,) how much each row counts in the likelihood, 0 or more. None: 1.

    Raises:
        ValueError: An input is not as above.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 40)  # 30 of 40 right: the best factor is log(3) / 4 = 0.27
        >>> found = weight_posterior({"prompt": logits}, torch.tensor([0] * 30 + [1] * 10))
        >>> round(float(found.mean), 2)
        0.33
    """
    names = tuple(experts)
    if not names:
        raise ValueError("A posterior needs an expert at least.")
    for name in names:
        check_logits(experts[name])
        check_labels(labels, experts[name])
    logits = _stacked(experts, names)
    centres = torch.tensor(
        [median[name] if isinstance(median, Mapping) else median for name in names]
    ).double()
    if not bool((centres > 0).all()) or not sd > 0 or not math.isfinite(sd):
        raise ValueError(f"median and sd of the prior must be above 0; got {centres.tolist()} and {sd!r}.")
    rows = torch.ones(len(labels)).double() if row_weights is None else as_float64(row_weights).cpu()
    if rows.shape != labels.shape or not bool((rows.isfinite() & (rows >= 0)).all()):
        raise ValueError(f"row_weights must be ({len(labels)},) finite numbers, 0 or more.")
    model = _Model(logits, labels.cpu().long(), rows, _offset(offset, logits), centres.log(), sd)
    mode = model.maximum()
    draws, shares = model.importance(mode)
    picked = model.log_likelihoods(draws)  # (M, N)
    targets = _mean_probs(logits, draws.exp(), shares, model.offset)
    return WeightPosterior(
        names=names,
        draws=draws.exp(),
        shares=shares,
        mode=mode.exp(),
        nearest=model.nearest(targets, mode).exp(),
        effective=float(1 / shares.square().sum()),
        left_out_nll=_left_out(picked, shares, rows),
        n=len(labels),
    )


@dataclass(frozen=True, eq=False)
class _Model:
    """Log-likelihood and prior in theta = log a."""

    logits: Tensor  # (E, N, C)
    labels: Tensor  # (N,)
    rows: Tensor  # (N,)
    offset: Tensor  # (C,)
    centre: Tensor  # (E,)
    sd: float

    def log_likelihoods(self, thetas: Tensor) -> Tensor:
        """Return the log-probability of every row's label under M thetas (M, E), (M, N)."""
        found = []
        for some in thetas.split(_at_once(self.logits)):
            scores = _combined(self.logits, some.exp(), self.offset)  # (m, N, C)
            right = scores.gather(2, self.labels.expand(len(some), -1)[:, :, None])[:, :, 0]
            found.append(right - scores.logsumexp(dim=2))
        return torch.cat(found)

    def log_posteriors(self, thetas: Tensor) -> Tensor:
        """Return the log-densities of M thetas (M, E) up to a constant, (M,)."""
        penalty = ((thetas - self.centre) / self.sd).square().sum(dim=1) / 2
        return self.log_likelihoods(thetas) @ self.rows - penalty

    def maximum(self) -> Tensor:
        targets = torch.nn.functional.one_hot(self.labels, self.logits.shape[2]).double()
        return self._newton(targets, self.centre.clone(), 1 / self.sd**2)

    def nearest(self, targets: Tensor, start: Tensor) -> Tensor:
        """Return the theta whose probabilities are nearest to targets (N, C).

        A trace of the prior keeps it finite.
        """
        return self._newton(targets, start, 1e-6)

    def _newton(self, targets: Tensor, theta: Tensor, precision: float) -> Tensor:
        """Return the least cross-entropy to targets plus precision / 2 |theta - centre|^2.

        Newton's steps, damped where the function is not convex in theta.
        """

        def value(theta: Tensor) -> float:
            scores = _combined(self.logits, theta.exp()[None], self.offset)[0]
            fit = (targets * (scores - scores.logsumexp(dim=1, keepdim=True))).sum(dim=1)
            return float(precision / 2 * (theta - self.centre).square().sum() - (self.rows * fit).sum())

        damping, now = 0.0, value(theta)
        for _ in range(200):
            slope, curvature = self._derivatives(targets, theta, precision)
            least = float(torch.linalg.eigvalsh(curvature)[0])
            firm = curvature + (damping + max(0.0, 1e-9 - least * 1.1)) * torch.eye(len(theta)).double()
            step = -torch.linalg.solve(firm, slope)
            step *= min(1.0, 1.0 / float(step.abs().max().clamp(min=1e-300)))  # a factor e at most
            after = value(theta + step)
            if after <= now:
                theta, change, now, damping = theta + step, now - after, after, damping / 4
                if float(step.abs().max()) < 1e-10 or change < 1e-14 * max(1.0, abs(now)):
                    break
            else:
                damping = max(4 * damping, 1e-3)
        return theta

    def _derivatives(self, targets: Tensor, theta: Tensor, precision: float) -> tuple[Tensor, Tensor]:
        weights = theta.exp()
        probs = _combined(self.logits, weights[None], self.offset)[0].softmax(dim=1)
        wide = weights[:, None, None] * self.logits  # (E, N, C)
        mean = (probs * wide).sum(dim=2)  # (E, N)
        slope = ((mean - (targets * wide).sum(dim=2)) * self.rows).sum(dim=1)
        second = torch.einsum("enc,fnc,nc->ef", wide, wide, probs * self.rows[:, None])
        curvature = second - torch.einsum("en,fn,n->ef", mean, mean, self.rows) + slope.diag()
        same = precision * torch.eye(len(theta)).double()
        return slope + precision * (theta - self.centre), curvature + same

    def importance(self, mode: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of theta (M, E) and their normalised importance weights (M,)."""
        targets = torch.nn.functional.one_hot(self.labels, self.logits.shape[2]).double()
        _, curvature = self._derivatives(targets, mode, 1 / self.sd**2)
        values, axes = torch.linalg.eigh(curvature)
        spread = axes * values.clamp(min=1 / (4 * self.sd**2)).rsqrt() @ axes.T
        centre, count = mode, self._count()
        points = _student_points(count, len(mode))  # (M, E)
        for _ in range(ROUNDS):
            draws = centre + points @ spread.T
            logs = self.log_posteriors(draws)
            proposal = -(DEGREES + 1) / 2 * torch.log1p(points.square() / DEGREES).sum(dim=1)
            shares = (logs - proposal).softmax(dim=0)
            away = draws - (centre := shares @ draws)
            scatter = (away * shares[:, None]).T @ away
            spread = torch.linalg.cholesky(scatter + 1e-12 * torch.eye(len(mode)).double())
        return draws, shares

    def _count(self) -> int:
        """Return how many draws the data allow: with thousands of rows the posterior is a point."""
        count = DRAWS
        while count > LEAST_DRAWS and count * self.logits.numel() > BUDGET:
            count //= 2
        return count


def _student_points(count: int, dim: int) -> Tensor:
    """Return quasi-random points (M, E) of independent Student-t distributions of unit scale."""
    from scipy.special import stdtrit
    from scipy.stats import qmc  # takes a while to import

    uniform = qmc.Sobol(dim, scramble=True, rng=np.random.default_rng(0)).random(count)
    return torch.from_numpy(stdtrit(DEGREES, uniform.clip(1e-9, 1 - 1e-9)))


def _combined(logits: Tensor, weights: Tensor, offset: Tensor) -> Tensor:
    """Return the weighted logits (M, N, C) of experts (E, N, C) under M weights (M, E)."""
    return torch.einsum("me,enc->mnc", weights, logits) + offset


def _at_once(logits: Tensor) -> int:
    """Return how many draws are computed in one piece."""
    return max(1, PIECE // logits[0].numel())


def _mean_probs(logits: Tensor, weights: Tensor, shares: Tensor, offset: Tensor) -> Tensor:
    """Return the mean of the probabilities over weighted draws, (N, C)."""
    total = torch.zeros_like(logits[0])
    size = _at_once(logits)
    for some, share in zip(weights.split(size), shares.split(size), strict=True):
        total += torch.einsum("m,mnc->nc", share, _combined(logits, some, offset).softmax(dim=2))
    return total


def _stacked(experts: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the logits relative to each row's largest, (E, N, C) float64."""
    missing = [name for name in names if name not in experts]
    if missing:
        raise ValueError(f"The logits of the expert '{missing[0]}' are missing; given: {', '.join(experts)}.")
    stacked = torch.stack([as_float64(experts[name].detach()).cpu() for name in names])
    return stacked - stacked.amax(dim=2, keepdim=True)


def _offset(offset: Tensor | None, logits: Tensor) -> Tensor:
    if offset is None:
        return logits.new_zeros(logits.shape[2])
    if offset.shape != logits.shape[2:] or not bool(offset.isfinite().all()):
        raise ValueError(f"offset must be ({logits.shape[2]},) finite numbers.")
    return as_float64(offset).cpu()


def _left_out(picked: Tensor, shares: Tensor, rows: Tensor) -> Tensor:
    """Return -log p(y_i | others), (N,), from log p(y_i | a) (M, N): the harmonic mean over the posterior.

    A row that counts w times is left out w times.
    """
    powers = shares.log()[:, None] - rows * picked  # posterior without the row, up to a factor
    return -(torch.logsumexp(powers + picked, dim=0) - torch.logsumexp(powers, dim=0))
