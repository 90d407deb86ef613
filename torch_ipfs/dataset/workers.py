"""Worker processes of torch: what they read reaches the training loop or is told as an error, and they end at once."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable
from multiprocessing import current_process
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize, get_temp_dir
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import MP_STATUS_CHECK_INTERVAL, signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from torch_ipfs.errors import OptionError

LONGEST_SOCKET_BYTES = 103
"""Of the path of a Unix socket: macOS takes 103 bytes, Linux 107."""

_SOCKET_BYTES = len("/listener-12345678")

_BEGUN: weakref.WeakSet[_MultiProcessingDataLoaderIter] = weakref.WeakSet()


class _Workers(_MultiProcessingDataLoaderIter):
    """torch's iterator, but for its end: as garbage it waits for five seconds, its queues being closed before it says so; and
    who asks it for more, or is waiting in another thread, when its workers are ended would wait for ever, or see its end.
    """

    ended = False

    def _next_data(self) -> Any:
        """:raises OptionError: the workers were ended, or are another process's."""
        if not _are_ours(self._workers):
            raise OptionError("this pass is of the process that this one was forked from; iter(loader) begins another")
        try:
            return super()._next_data()  # type: ignore[no-untyped-call]
        except Exception:
            if not self.ended:
                raise
            raise OptionError(
                "the loader was closed in the middle of this pass; a new pass starts its workers anew"
            ) from None

    def _try_get_data(self, timeout: float = MP_STATUS_CHECK_INTERVAL) -> tuple[bool, Any]:
        got: tuple[bool, Any] = super()._try_get_data(timeout)  # type: ignore[no-untyped-call]
        if self.ended and not got[0]:
            raise EOFError
        return got

    def __del__(self) -> None:
        made = hasattr(self, "_workers")  # not where there were too few file descriptors to begin
        if made and sys is not None and not sys.is_finalizing():
            end_workers(self)


def begin_workers(loader: DataLoader[Any]) -> _MultiProcessingDataLoaderIter:
    """Torch's iterator over the workers of ``loader``."""
    _make_room_for_sockets()
    iterator = _Workers(loader)
    _BEGUN.add(iterator)
    return iterator


def _make_room_for_sockets() -> None:
    """Give this process and its workers one temporary folder, with room in its path for their sockets.

    Tensors come from a worker through a socket in such a folder. One of a worker's own would be left behind when it is
    terminated, and under a long TMPDIR no socket could be made (as Python 3.14 does, /tmp is taken there).
    """
    if len(os.fsencode(get_temp_dir())) + _SOCKET_BYTES <= LONGEST_SOCKET_BYTES:
        return
    short = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
    Finalize(None, shutil.rmtree, args=(short, True), exitpriority=-100)
    current_process()._config["tempdir"] = short  # type: ignore[attr-defined]  # noqa: SLF001


_print_error: Any = Queue._on_queue_feeder_error  # type: ignore[attr-defined]  # noqa: SLF001


def _send_error(queue: Queue[Any], error: Exception, item: Any) -> None:
    """In a DataLoader worker, tell the training loop of an ``item`` that could not be sent to it, not just standard error.

    What a worker has read is pickled by a thread of its queue, which would print the error and go on to the next: the
    training loop would wait for ever.
    """
    worker: Any = current_process()
    # Of the queues that a worker is given, the training loop has this one.
    if get_worker_info() is None or not any(queue is given for given in worker._args):  # noqa: SLF001
        _print_error(error, item)
        return
    step, output = item
    where = "in a DataLoader worker process as it sent what it had read, which must pickle"
    failed: Any = ExceptionWrapper(where=where)  # type: ignore[no-untyped-call]
    if isinstance(output, tuple) and worker._target.__module__.startswith("torchdata."):  # noqa: SLF001 - whose workers send their state beside it
        failed = (failed, *output[1:])
    queue.put((step, failed))


# As concurrent.futures does. Not just when a dataset is first read: torchdata's workers have sent something by then, and the
# thread has begun.
Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]  # noqa: SLF001


def can_go_on(iterator: object) -> bool:
    """Whether this process may have another pass of the workers of one of torch's iterators. Not where one has ended, killed
    or by a Ctrl-C that the whole process group got; nor in a process that was forked from theirs.
    """
    workers = getattr(iterator, "_workers", ())
    return _are_ours(workers) and all(worker.is_alive() for worker in workers)


def _are_ours(workers: Iterable[Any]) -> bool:
    return all(worker._parent_pid == os.getpid() for worker in workers)  # noqa: SLF001


def end_workers(iterator: object) -> None:
    """End the workers of one of torch's iterators now, and tell who asks it for more."""
    if isinstance(iterator, _Workers):
        iterator.ended = True
    _end(iterator)
    if isinstance(iterator, _Workers):
        # Nobody writes there any more: who waits sees the end of the pipe, but for what other workers have inherited of it.
        iterator._worker_result_queue._writer.close()  # type: ignore[attr-defined]  # noqa: SLF001


def _end(iterator: object) -> None:
    """End the workers of one of torch's iterators now: it would wait for what each is fetching, five seconds at most."""
    if not isinstance(iterator, _MultiProcessingDataLoaderIter):
        return
    workers = iterator._workers  # noqa: SLF001 - torch has no public way to end them
    # torch watches its workers, by the iterator's address, and takes one that ends before its time for a failure, wherever the
    # parent is then.
    if iterator._worker_pids_set:  # noqa: SLF001
        signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]  # noqa: SLF001
        iterator._worker_pids_set = False  # noqa: SLF001
    if not _are_ours(workers):
        # This process was forked from theirs, which goes on with them.
        iterator._shutdown = True  # noqa: SLF001
        return
    if not hasattr(iterator, "_workers_status"):  # a Ctrl-C came as they were started
        iterator._workers_status = [True] * len(workers)  # noqa: SLF001
    for worker in workers:
        worker.kill()  # where they are told to end they do no more than this either, unless they are stopped
    # A worker that ended while it looked at this event holds its lock for ever, and torch would wait for that.
    iterator._workers_done_event = threading.Event()  # type: ignore[assignment]  # noqa: SLF001
    iterator._shutdown_workers()  # noqa: SLF001


@atexit.register
def _end_all() -> None:
    """End what goes on still as the interpreter ends: multiprocessing would wait without bound for its processes."""
    for iterator in list(_BEGUN):
        _end(iterator)  # threads that wait for more end with the program
