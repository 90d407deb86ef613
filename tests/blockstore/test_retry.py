from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from torch_ipfs.blockstore.fetch_options import FetchOptions
from torch_ipfs.blockstore.retry import Later, Retry, retry_after_s
from torch_ipfs.blockstore.turns import Turns
from torch_ipfs.errors import OptionError


class Attempts:
    """Fails in the given ways, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def retrying(timeout_s: float = 10.0, **options) -> Retry:
    return Retry(FetchOptions(**{"backoff_s": 0.001, **options}), timeout_s, "source")


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_what_comes_later_is_asked_for_again(failures: int):
    attempts = Attempts(*(Later("busy") for _ in range(failures)))
    retry = retrying(retries=3)
    assert asyncio.run(retry.call(attempts)) == "answer"
    assert attempts.count == failures + 1
    assert retry.count == failures


def test_that_a_host_does_not_answer_at_all_is_warned_of_once(caplog: pytest.LogCaptureFixture):
    retry = retrying(retries=3)
    asyncio.run(retry.call(Attempts(Later("refused"), Later("refused"))))
    asyncio.run(retry.call(Attempts(Later("busy"))))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["source: refused"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_it_gives_up_after_so_many_retries_and_tells_of_the_last(retries: int):
    attempts = Attempts(*(Later(f"failure {i}") for i in range(10)))
    with pytest.raises(Later, match=f"failure {retries}"):
        asyncio.run(retrying(retries=retries).call(attempts))
    assert attempts.count == retries + 1


def test_what_never_comes_is_asked_for_once():
    attempts = Attempts(KeyError("broken"))
    with pytest.raises(KeyError):
        asyncio.run(retrying(retries=3).call(attempts))
    assert attempts.count == 1


def test_time_for_all_attempts_and_waits_is_bounded():
    attempts = Attempts(*(Later("busy") for _ in range(10**4)))
    start = time.monotonic()
    with pytest.raises(Later, match=r"0\.05 s.*busy"):
        asyncio.run(retrying(timeout_s=0.05, retries=10**4).call(attempts))
    assert time.monotonic() - start < 5


def test_an_attempt_that_hangs_is_bounded():
    with pytest.raises(Later, match=r"no whole answer within 0\.02 s"):
        asyncio.run(retrying(timeout_s=0.02).call(lambda: asyncio.sleep(60)))


def test_backoff_doubles_up_to_its_most():
    retry = retrying(backoff_s=1.0, backoff_max_s=5.0)
    for failures, full_s in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5000, 5.0)):
        waits = [retry._backoff_s(failures) for _ in range(100)]
        assert full_s / 2 <= min(waits) < max(waits) <= full_s


def test_retry_after_holds_back_all_attempts_and_is_capped():
    retry = retrying(retry_after_max_s=0.1, retries=1)

    async def both() -> float:
        first = asyncio.create_task(retry.call(Attempts(Later("busy", retry_after_s=3600))))
        await asyncio.sleep(0.001)
        start = time.monotonic()
        await retry.call(Attempts())
        held_s = time.monotonic() - start
        await first
        return held_s

    assert 0.05 < asyncio.run(both()) < 5


class Limited:
    """A host that answers one request every 5 ms, and refuses those between."""

    def __init__(self, retry_after_s: float | None) -> None:
        self.retry_after_s = retry_after_s
        self.free_at = 0.0
        self.refused = 0

    async def __call__(self) -> str:
        await asyncio.sleep(0)
        if time.monotonic() < self.free_at:
            self.refused += 1
            raise Later("too many", retry_after_s=self.retry_after_s, is_too_many=True)
        self.free_at = time.monotonic() + 0.005
        return "answer"


@pytest.mark.parametrize("asked_s", [None, 0.0, 0.005])
def test_a_host_that_allows_few_requests_gives_all_in_the_end(asked_s: float | None):
    host = Limited(asked_s)
    retry = retrying(retries=1, backoff_s=0.005)

    async def window() -> list[str]:
        return await asyncio.gather(*(retry.call(host) for _ in range(40)))

    assert asyncio.run(window()) == ["answer"] * 40
    assert asyncio.run(window()) == ["answer"] * 40  # in another loop, as after close() or in a forked child


@pytest.mark.parametrize("cap_s", [0.0, 60.0])
def test_a_host_that_refuses_all_for_there_being_too_many_is_given_up(cap_s: float):
    host = Limited(0.01)
    host.free_at = time.monotonic() + 3600
    retry = retrying(retries=2, retry_after_max_s=cap_s)

    async def window() -> list[str | BaseException]:
        return await asyncio.gather(*(retry.call(host) for _ in range(10)), return_exceptions=True)

    assert [str(failure) for failure in asyncio.run(window())] == ["tried 3 times, at last: too many"] * 10
    assert host.refused == 30


def test_a_turn_that_is_not_waited_for_goes_to_the_next():
    async def taken() -> list[str]:
        turns, order = Turns(), []

        async def take(name: str) -> None:
            await turns.begin()
            order.append(name)

        turns.too_many()
        await take("first")
        waiting = [asyncio.create_task(take(name)) for name in ("second", "third", "fourth")]
        await asyncio.sleep(0)
        waiting[0].cancel()  # while it waits
        turns.end()
        waiting[1].cancel()  # when its turn has just come
        await asyncio.wait(waiting, timeout=10)
        return order

    assert asyncio.run(taken()) == ["first", "fourth"]


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_retry_after_dates_in_each_form_of_http(form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        found = retry_after_s((datetime.now(UTC) + timedelta(seconds=90)).strftime(form))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found is not None
    assert 85 < found < 95


def test_retry_after_in_seconds_dates_and_nonsense():
    assert retry_after_s("120") == 120
    assert retry_after_s(" 0 ") == 0
    assert retry_after_s("9" * 400) == 999_999_999
    date = datetime.now(UTC) + timedelta(seconds=90)
    found = retry_after_s(format_datetime(date, usegmt=True))
    assert found is not None
    assert 85 < found < 95
    assert retry_after_s("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    for nonsense in (None, "", "soon", "-1", "1.5", "٣", "Fri, 99 Dec 1999 99:99:99 GMT"):
        assert retry_after_s(nonsense) is None


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["timeout_s", "retries", "in_flight", "window_bytes", "backoff_s"])
def test_options_are_checked(name: str, value: float):
    with pytest.raises(OptionError, match=name):
        FetchOptions(**{name: value})  # type: ignore[arg-type]
