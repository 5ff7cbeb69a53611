"""A token bucket, which limits a rate but allows bursts."""

from __future__ import annotations

import asyncio

from wenet_fusion_runtime.server.errors import ClientError, Reason

FLOOD_SECONDS = 10.0  # longest time for which a client may use up a budget without a pause


class Budget:
    """A token bucket: an allowance per second, beyond which callers must wait.

    Args:
        rate: allowance per second.
        burst: largest amount that can be saved up; also the amount at the start.

    >>> budget = Budget(rate=10, burst=20)
    >>> budget.spend(15, now=0.0), budget.spend(10, now=0.0), budget.spend(5, now=1.0)
    (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, float("-inf")

    def spend(self, amount: float, now: float) -> float:
        """Take an amount; return the seconds to wait before the next call."""
        self._refill(now)
        self._left -= amount
        return max(0.0, -self._left / self._rate)

    def try_spend(self, amount: float, now: float) -> bool:
        """Take an amount if the budget holds that much; return whether it was taken."""
        self._refill(now)
        if self._left < amount:
            return False
        self._left -= amount
        return True

    @property
    def is_rested(self) -> bool:
        """True if more than half of the burst is saved up."""
        return self._left > self._burst / 2

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now


class Pace:
    """Makes a client wait according to a budget, and raises an error if it exceeds the budget for FLOOD_SECONDS.

    Waiting alone is not enough: when unread data fill the buffers of both systems, the server cannot see that a client
    has hung up, because the end of the connection arrives after the data.

    Args:
        budget: the budget, which several objects may share.
        problem: describes the excess, for the error message.

    >>> async def receive(pace: Pace, pieces: list[bytes]) -> bytes:
    ...     for piece in pieces:
    ...         await pace.wait(1)
    ...     return b"".join(pieces)
    >>> asyncio.run(receive(Pace(Budget(rate=10, burst=20), "too many pieces"), [b"a", b"b"]))
    b'ab'
    """

    def __init__(self, budget: Budget, problem: str) -> None:
        self._budget, self._problem = budget, problem
        self._since: float | None = None  # loop time at which the budget was used up

    async def wait(self, amount: float, is_useful: bool = False) -> None:
        """Take an amount of the budget, and wait until it is covered.

        Args:
            amount: the amount that the client has sent.
            is_useful: the client has sent audio, which may use up the budget for any length of time.
        Raises:
            ClientError: the client exceeded the budget for too long.
        """
        now = asyncio.get_running_loop().time()
        seconds = self._budget.spend(amount, now)
        if is_useful or self._budget.is_rested:
            self._since = None
        elif seconds > 0 and self._since is None:
            self._since = now
        if self._since is not None and now - self._since > FLOOD_SECONDS:
            raise ClientError(Reason.FLOOD, f"{self._problem} for {FLOOD_SECONDS:g} s")
        await asyncio.sleep(seconds)
