"""What a run was made on."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import blake3

_HASHED_BYTES = 64 * 2**20
_PACKAGES = ("torch-ipfs", "torch", "numpy", "blake3", "libipld", "cbor2", "pyarrow", "torchdata")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; and how fast the cores hash at the moment."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "hash_bytes_per_s": {
            "sha2-256": _hash_speed(lambda data: hashlib.sha256(data).digest()),
            "blake3": _hash_speed(lambda data: blake3.blake3(data).digest()),
        },
    }


def load() -> float:
    """Processes that run or want to, on average over the last minute: above the number of cores they wait for each other."""
    return os.getloadavg()[0]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hash_speed(digest: Any) -> dict[str, float]:
    """Bytes a second of blocks of 1 MiB, on one core and on all of them."""
    block = bytes(2**20)

    def hash_share() -> None:
        for _ in range(_HASHED_BYTES // len(block)):
            digest(block)

    speeds = {}
    for name, num_threads in (("one core", 1), ("all cores", _cores())):
        threads = [threading.Thread(target=hash_share) for _ in range(num_threads)]
        start_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        speeds[name] = num_threads * _HASHED_BYTES / (time.perf_counter() - start_s)
    return speeds
