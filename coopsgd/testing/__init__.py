"""One battery for every strategy: what holds of a built-in algorithm must hold of yours.

    from coopsgd.testing import check_strategy

    def test_my_strategy():
        check_strategy(SlowMo, "tau=4", "algo.beta=0.5")

A failure is an AssertionError that names the class and the promise that it breaks; of arithmetic across rows, method and
argument.
"""

from coopsgd.testing.battery import check_strategy

__all__ = ["check_strategy"]
