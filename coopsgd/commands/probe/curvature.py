"""The largest curvature at a point, from Hessian-vector products alone.

Power iteration that forgets nothing: Lanczos (1950) keeps all the products it has made and takes the best vector of their
span, so that 8 products tell what power iteration needs many more for where eigenvalues lie close.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Top(NamedTuple):
    """The eigenvalue that is largest in size."""

    value: float  # signed
    other: float  # the other end of the spectrum, as far as it was seen
    slack: float  # an eigenvalue lies within so much of `value`
    vector: Tensor  # (1, d), of norm 1


def top(product: Callable[[Tensor], Tensor], start: Tensor, count: int) -> Top:
    """Of the symmetric operator `product` on (1, d) vectors, after `count` products from the vector `start`.

    The number of products never depends on what they are: processes that share one must ask for it equally often. A vector
    that the ones before it span already (d small, few distinct eigenvalues) becomes 0 and adds nothing.
    """
    count = min(count, start.shape[1])
    basis = start.new_zeros(count, start.shape[1])
    T = torch.zeros(count, count, dtype=torch.float64)
    basis[0] = start[0] / torch.linalg.vector_norm(start)
    rest, scale = basis[0], 0.0
    for j in range(count):
        image = product(basis[j : j + 1])[0]
        T[j, j] = basis[j].double() @ image.double()
        scale = max(scale, float(torch.linalg.vector_norm(image)))
        rest = image
        for _ in range(2):  # twice: once leaves rounding of the size of what was taken away
            rest = rest - (basis[: j + 1] @ rest) @ basis[: j + 1]
        beta = float(torch.linalg.vector_norm(rest))
        if j + 1 < count and beta > 10 * torch.finfo(start.dtype).eps * scale:
            basis[j + 1] = rest / beta
            T[j, j + 1] = T[j + 1, j] = beta
    values, vectors = torch.linalg.eigh(T)
    at = int(values.abs().argmax())
    weights = vectors[:, at]
    vector = weights.to(basis) @ basis
    ends = (float(values[0]), float(values[-1]))
    slack = float(torch.linalg.vector_norm(rest)) * abs(float(weights[-1]))
    return Top(float(values[at]), ends[0] if at else ends[1], slack, vector[None])
