"""The constants of the prior over gains, fitted to published trainings; see choice_rules.py."""

from __future__ import annotations

import numpy as np
from published_cells import Cases
from scipy.optimize import minimize

from siftune.evaluation import choosing
from siftune.evaluation.gains import UNTUNED, Prior

COMPONENTS = tuple(zip(*choosing.COMPONENTS, strict=True))


def prior_from(point: np.ndarray, weights: np.ndarray) -> Prior:
    common, untuned, level, random_luck = np.exp(point[:4])
    rhos = 1 / (1 + np.exp(-point[5:8]))
    values = [round(float(value), 3) for value in (common, untuned, level, point[4], random_luck, *rhos)]
    return Prior(*values, *COMPONENTS, tuple(round(float(weight), 4) for weight in weights))  # pyright: ignore[reportCallIssue]


def fit(cases: Cases, cells: np.ndarray) -> Prior:
    """Maximum marginal likelihood of all trainings of the cells, weights of the mixture by EM."""
    arm = np.append(np.repeat(cases.arm[:-1], 3), UNTUNED)
    budget = np.append(np.repeat(cases.budget[:-1], 3), 1.0)
    contrasts = np.linalg.svd(np.ones((1, len(arm))))[2][1:]
    trained = np.moveaxis(cases.scores[cells, :, :-1], 1, 2).reshape(len(cells), -1)
    data = np.concatenate([trained, cases.scores[cells, 0, -1:]], axis=1) @ contrasts.T

    def likelihood(prior: Prior, steps: int) -> tuple[float, np.ndarray]:
        covariance, logs = contrasts @ prior.covariance(arm, budget) @ contrasts.T, []
        for scale, luck in zip(prior.scales, prior.luck(arm), strict=True):
            root = np.linalg.cholesky(scale**2 * covariance + (contrasts * luck) @ contrasts.T
                                      + 1e-6 * np.eye(len(contrasts)))
            logs.append(-0.5 * (np.linalg.solve(root, data.T)**2).sum(axis=0) - np.log(np.diag(root)).sum())
        parts = np.array(logs).T
        weights = np.full(parts.shape[1], 1 / parts.shape[1])
        for _ in range(steps):
            share = np.exp(parts - parts.max(axis=1, keepdims=True)) * weights
            share /= share.sum(axis=1, keepdims=True)
            weights = (share.sum(axis=0) + 0.3) / (len(cells) + 0.3 * len(weights))  # 0.3: no part is ruled out
        return float(np.log((np.exp(parts - parts.max(axis=1, keepdims=True)) * weights).sum(axis=1)).sum()
                     + parts.max(axis=1).sum()), weights

    start = np.array([0.0, 0.5, 0.5, 0.3, 0.3, 2.0, 2.0, 2.0])  # of prior_from; nothing of any cell is in it
    uniform = np.full(len(COMPONENTS[0]), 1 / len(COMPONENTS[0]))
    found = minimize(lambda point: 0.05 * float(point @ point) - likelihood(prior_from(point, uniform), 8)[0], start,
                     method="Nelder-Mead", options=dict(
                         maxiter=400, adaptive=True, xatol=0.03, fatol=0.03,
                         initial_simplex=np.concatenate([start[None], start + 0.5 * np.eye(len(start))])))
    _, weights = likelihood(prior_from(found.x, uniform), 60)
    return prior_from(found.x, weights / weights.sum())
