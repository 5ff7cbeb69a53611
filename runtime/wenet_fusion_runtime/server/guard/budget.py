"""A token bucket: limit a rate, and allow bursts."""

from __future__ import annotations


class Budget:
    """An allowance per second; larger amounts must wait.

    Args:
        rate: allowance per second.
        burst: largest amount that is saved up, also at the start.

    >>> budget = Budget(rate=10, burst=20)
    >>> budget.spend(15, now=0.0), budget.spend(10, now=0.0), budget.spend(5, now=1.0)
    (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, float("-inf")

    def spend(self, amount: float, now: float) -> float:
        """Take an amount; return the seconds to wait before the next one."""
        self._refill(now)
        self._left -= amount
        return max(0.0, -self._left / self._rate)

    def try_spend(self, amount: float, now: float) -> bool:
        """Take an amount if the budget holds it; return whether it does."""
        self._refill(now)
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
