"""Fits with coefficients that cannot be negative."""

import numpy as np

from specsim.checks import Floats

SMALL = 0.05  # a relative error, as timings have where nothing disturbs them


def non_negative_fit(columns: Floats, target: Floats) -> list[float]:
    """The coefficients >= 0 with the least sum of absolute errors.

    Absolute errors, not squares: a few probes that other work on the machine disturbed must not
    move the fit. Errors below `SMALL` count by their squares: between two constants that explain
    the probes nearly as well, the smallest noise would else decide for one of them.
    """
    weights = np.ones(len(target))
    solution = np.zeros(columns.shape[1])
    for _ in range(30):  # iteratively reweighted least squares
        solution = non_negative_least_squares(columns * weights[:, None], target * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(columns @ solution - target), SMALL))
    return solution.tolist()


def non_negative_least_squares(columns: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0.

    While a coefficient is negative, the most negative one is set to 0 and the rest is fitted again.
    """
    active = list(range(columns.shape[1]))
    result = np.zeros(columns.shape[1])
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    while active:
        solution = np.linalg.lstsq(columns[:, active] / scale[active], target, rcond=None)[0]
        if np.all(solution >= 0):
            result[active] = solution / scale[active]
            break
        active.pop(int(np.argmin(solution)))
    return result
