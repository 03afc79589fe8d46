"""Every kind of matrix is what its array is: one test case that each inherits."""

from __future__ import annotations

import numpy as np
import pytest

from coopsgd.mixing import graphs, matrices, spectra
from coopsgd.mixing.matrix import Edges, Matrix, Outer, Sum, identity, refined
from coopsgd.mixing.recognise import recognise
from coopsgd.mixing.structured import Average, Dense, Groups, Product, Pull

SIZES = (1, 2, 3, 7, 16)
TIGHT = {"rtol": 0, "atol": 1e-12}


def ordered(values: object) -> np.ndarray:
    """Sorted, whatever rounding did to them."""
    return np.sort_complex(np.round(np.asarray(values, dtype=complex), 7))


class Kind:
    """`made` is a matrix over n members, at random."""

    def made(self, n: int, rng: np.random.Generator) -> Matrix:
        raise NotImplementedError

    @pytest.fixture(params=SIZES)
    def pair(self, request):
        W = self.made(request.param, np.random.default_rng(request.param))
        assert len(W) == W.n and W.shape == (W.n, W.n)
        return W, np.array(W)

    def test_products(self, pair):
        W, A = pair
        rng = np.random.default_rng(0)
        for X in (rng.standard_normal(W.n), rng.standard_normal((W.n, 3))):
            np.testing.assert_allclose(W @ X, A @ X, **TIGHT)
            np.testing.assert_allclose(W.T @ X, A.T @ X, **TIGHT)
        np.testing.assert_allclose(np.array(0.5 * W + 2.0 * identity(W.n)), 0.5 * A + 2 * np.eye(W.n), **TIGHT)
        np.testing.assert_allclose(np.array(Product(W.n, (W, W))), A @ A, **TIGHT)

    def test_parts(self, pair):
        W, A = pair
        whole, some = np.arange(W.n), np.arange(0, W.n, 2)
        np.testing.assert_allclose(W.block(some, whole), A[some], **TIGHT)
        np.testing.assert_allclose(np.array(W.local(some)), A[np.ix_(some, some)], **TIGHT)
        np.testing.assert_allclose(W.row(W.n - 1), A[-1], **TIGHT)
        assert not W.dense().flags.writeable

    def test_sums_and_signs(self, pair):
        W, A = pair
        np.testing.assert_allclose(W.row_sums, A.sum(1), **TIGHT)
        np.testing.assert_allclose(W.column_sums, A.sum(0), **TIGHT)
        assert W.is_symmetric(1e-12) == (np.abs(A - A.T).max() <= 1e-12)
        assert W.is_row_stochastic(1e-9) == (np.abs(A.sum(1) - 1).max() <= 1e-9)
        i, j, least = W.least
        if not isinstance(W, Product):  # whose factors are each looked at
            assert least == pytest.approx(min(A.min(), 0) if least <= 0 else A.min(), abs=1e-12)
            assert least >= 0 or A[i, j] == pytest.approx(least, abs=1e-12)

    def test_spectrum(self, pair):
        W, A = pair
        if W.modes is not None:
            np.testing.assert_allclose(ordered(W.modes.values), ordered(np.linalg.eigvals(A)), rtol=0, atol=1e-6)
        if W.labels is not None:
            labels = refined([W.labels])
            Q, within = W.quotient(labels)
            values = [*np.linalg.eigvals(Q), *np.repeat(within, np.bincount(labels) - 1)]
            np.testing.assert_allclose(ordered(values), ordered(np.linalg.eigvals(A)), rtol=0, atol=1e-6)

    def test_recognised(self, pair):
        W, A = pair
        assert recognise(W) is W
        np.testing.assert_array_equal(np.array(recognise(A)), A)


class TestAverage(Kind):
    def made(self, n, rng):
        return Average(n)

    def test_an_array_of_it_is_one(self):
        assert isinstance(recognise(np.full((4, 4), 0.25)), Average)


class TestGroups(Kind):
    def made(self, n, rng):
        order = rng.permutation(n)
        return Groups(n, [part.tolist() for part in np.array_split(order, min(n, 3))])


class TestEdges(Kind):
    def made(self, n, rng):
        rows, columns = np.nonzero(rng.random((n, n)) < 0.4)
        order = rng.permutation(len(rows))
        return Edges.of(n, rows[order], columns[order], rng.standard_normal(len(rows)))


class TestGossip(Kind):
    def made(self, n, rng):
        return matrices.metropolis(graphs.Ring().links(n))


class TestExponential(Kind):
    def made(self, n, rng):
        return matrices.metropolis(graphs.Exponential().links(n))


class TestElastic(Kind):
    def made(self, n, rng):
        return matrices.elastic(n, 0.1)


class TestAnchored(Kind):
    def made(self, n, rng):
        return Pull(0.8 * matrices.metropolis(graphs.Complete().links(n)), 0.2)


class TestUpload(Kind):
    def made(self, n, rng):
        return matrices.upload(np.full(n, 1 / n))


class TestDownload(Kind):
    def made(self, n, rng):
        return matrices.download(rng.random(n) < 0.5)


class TestSum(Kind):
    def made(self, n, rng):
        terms = tuple(Outer(rng.permutation(n)[: (n + 1) // 2], *rng.standard_normal((2, (n + 1) // 2))) for _ in range(2))
        return Sum(n, identity(n), terms)


class TestLazyAverage(Kind):
    def made(self, n, rng):
        return 0.5 * identity(n) + 0.5 * Average(n)


class TestDense(Kind):
    def made(self, n, rng):
        return Dense(rng.standard_normal((n, n)))


class TestProduct(Kind):
    def made(self, n, rng):
        return Product(n + 1, (matrices.upload(np.full(n, 1 / n)), matrices.download(np.ones(n, dtype=bool))))


class TestProductOfNothing(Kind):
    def made(self, n, rng):
        return Product(n)


@pytest.mark.parametrize("name", ["ring", "chain", "star", "grid", "torus", "hypercube", "exponential", "complete"])
def test_spectra_in_closed_form_are_those_of_the_arrays(monkeypatch, name):
    """What 4096 workers get from a formula is what 16 get from the array."""
    from coopsgd.registry import lookup

    for weights in ("metropolis", "uniform", *([] if name == "exponential" else ["best_constant"])):
        W = matrices.WEIGHTS[weights](lookup("graph", name)().links(16))
        expected = spectra.zeta(W.dense())
        monkeypatch.setattr(spectra, "WHOLE", 0)
        assert spectra.zeta(W) == pytest.approx(expected, abs=1e-9)
        if W.modes is None and W.labels is None:
            assert (name, weights) == ("grid", "metropolis")  # border weights differ: by the sparse eigensolver
        monkeypatch.undo()
