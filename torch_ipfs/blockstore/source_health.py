"""Whether a source is asked in its turn, or left alone for a while because it failed.

All here is arithmetic on moments (seconds of a clock that never goes back); whoever has one guards it with a lock.
"""

from __future__ import annotations


class SourceHealth:
    """A source is up until it fails. Then it is demoted, for longer each time, and comes back by one trial.

    While it is demoted it is asked as the last resort alone. When its time is over, one request is its trial: an answer,
    however late, brings it back; a failure, or no answer by the time of the next trial, doubles the time until the next.

    :param demote_s: how long the first failure demotes; 0 for never.
    :param demote_max_s: the longest time that this grows to.
    """

    __slots__ = ("_demote_max_s", "_demote_s", "_demoted_at", "_period_s", "_trial_at", "_until", "_up_since")

    def __init__(self, demote_s: float, demote_max_s: float) -> None:
        self._demote_s = demote_s
        self._demote_max_s = max(demote_s, demote_max_s)
        self._period_s = 0.0
        self._demoted_at: float | None = None
        self._until = 0.0
        self._trial_at: float | None = None
        self._up_since = 0.0

    @property
    def is_up(self) -> bool:
        """Whether it is not demoted."""
        return self._demoted_at is None

    @property
    def period_s(self) -> float:
        """How long it is demoted, or was the last time."""
        return self._period_s

    def admit(self, now: float) -> bool:
        """Whether a request may go to it in its turn. Where it is demoted, this makes that request its trial."""
        if self._demoted_at is None:
            return True
        if now < self._until:
            return False
        if self._trial_at is not None:
            self._period_s = min(2 * self._period_s, self._demote_max_s)
        self._trial_at = now
        self._until = now + self._period_s
        return True

    def failed(self, asked_at: float, now: float) -> bool:
        """A request made at ``asked_at`` failed; whether that demotes the source, which the news of a failure known before,
        or of one met as the last resort, does not.
        """
        if self._demote_s <= 0:
            return False
        if self._demoted_at is None:
            if asked_at < self._up_since:
                return False
            if now - self._up_since > self._period_s:
                self._period_s = 0.0  # it was well for longer than it was away
        elif self._trial_at is None or asked_at < self._trial_at:
            return False
        self._period_s = min(max(self._demote_s, 2 * self._period_s), self._demote_max_s)
        self._demoted_at = now
        self._until = now + self._period_s
        self._trial_at = None
        return True

    def answered(self, asked_at: float, now: float) -> bool:
        """A request made at ``asked_at`` was answered; whether that brings the source back."""
        if self._demoted_at is None or asked_at < self._demoted_at:
            return False
        self._demoted_at = None
        self._trial_at = None
        self._up_since = now
        return True
