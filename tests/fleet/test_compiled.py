"""A plain step by the compiled kernel: what mixes rows is tested with them, in test_local.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coopsgd.fleet import compiled
from coopsgd.host import native

pytestmark = pytest.mark.skipif(not native.in_use(), reason="the kernels are not built here, or not wanted")

COLUMNS = 5003
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def rows(n, dtype):
    return torch.from_numpy(np.random.default_rng(n).normal(size=(n, COLUMNS))).to(dtype)


@DTYPES
@pytest.mark.parametrize("one", [True, False], ids=["one direction", "one each"])
def test_a_plain_step_is_the_same_wherever_a_column_lies(one, dtype):
    x, g = rows(3, dtype), rows(1 if one else 3, dtype) * 7
    whole = x.clone()
    assert compiled.along(whole, g, 0.05)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(whole.double(), x.double() - 0.05 * g.double(), rtol=tolerance, atol=tolerance)
    for cut in (1, 3, 7, 16, 17, 100, 1000, 1023):
        parts = x.clone()
        for at in range(0, COLUMNS, cut):
            assert compiled.along(parts[:, at : at + cut], g[:, at : at + cut], 0.05)
        assert torch.equal(parts, whole), f"columns by {cut}"


@DTYPES
def test_it_is_left_to_torch_where_rows_do_not_lie_as_they_must(dtype):
    x, g = rows(4, dtype), rows(1, dtype)
    for wrong in (g.half(), g[:, 1:], rows(2, dtype)):
        assert not compiled.along(x, wrong, 0.1)
    assert not compiled.along(x.t().contiguous().t(), g, 0.1)
    assert torch.equal(x, rows(4, dtype))
