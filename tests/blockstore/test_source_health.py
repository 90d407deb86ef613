"""When a source is left alone, and for how long, in moments."""

from __future__ import annotations

from torch_ipfs.blockstore.source_health import SourceHealth


def test_a_source_is_demoted_longer_each_time_up_to_a_bound_and_back_after_one_answer() -> None:
    health = SourceHealth(1.0, 5.0)
    now = 100.0
    assert health.admit(now)
    assert health.failed(now, now)
    for period_s in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert health.period_s == period_s
        assert not health.admit(now + 0.99 * period_s)
        now += period_s
        assert health.admit(now)
        assert not health.admit(now + 0.99 * period_s)  # one trial
        assert health.failed(now, now + 0.1)
        now += 0.1
    now += 5.0
    assert health.admit(now)
    assert health.answered(now, now)
    assert health.is_up
    assert health.admit(now)
    assert health.failed(now, now)
    assert health.period_s == 5.0  # it was hardly back
    now += 5.0
    assert health.admit(now)
    assert health.answered(now, now)
    now += 5.1
    assert health.failed(now, now)
    assert health.period_s == 1.0  # it had been well for some time


def test_trials_that_have_no_outcome_grow_rare_and_a_late_answer_still_counts() -> None:
    health = SourceHealth(1.0, 60.0)
    assert health.failed(0.0, 0.0)
    trials = [now / 10 for now in range(400) if health.admit(now / 10)]
    assert trials == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert health.answered(4.0, 40.0)
    assert health.is_up


def test_old_news_changes_nothing() -> None:
    health = SourceHealth(1.0, 60.0)
    assert health.failed(10.0, 11.0)
    assert not health.failed(10.5, 11.1)  # in flight when the first failed
    assert not health.answered(10.5, 11.2)
    assert not health.failed(11.3, 11.4)  # asked as the last resort
    assert health.period_s == 1.0
    assert health.answered(11.5, 11.6)  # and answered as such
    assert health.is_up
    assert not health.answered(11.5, 11.8)
    assert not health.failed(11.3, 11.7)
    assert not SourceHealth(0.0, 60.0).failed(1.0, 2.0)
