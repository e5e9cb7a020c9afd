"""The clock of a run: the one thing that a test replaces to know every time exactly."""

import asyncio
import time


class Clock:
    """Seconds of the monotonic clock, and a sleep by it."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter()

    async def sleep(self, seconds: float) -> None:
        """Wait; at least let others run."""
        await asyncio.sleep(seconds)
