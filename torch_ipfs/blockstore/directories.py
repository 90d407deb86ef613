"""Where the user's blocks and caches live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

APP_NAME = "torch_ipfs"


def data_directory() -> Path:
    """The local store's folder: TORCH_IPFS_HOME, else the platform's for a user's data. It need not exist."""
    return _directory("TORCH_IPFS_HOME", "user_data_dir")


def cache_directory() -> Path:
    """The folder of what can be made or fetched again: TORCH_IPFS_CACHE_DIR, else the platform's for caches."""
    return _directory("TORCH_IPFS_CACHE_DIR", "user_cache_dir")


def _directory(variable: str, platform_directory: str) -> Path:
    named = os.environ.get(variable)
    if named:
        return Path(named).expanduser().absolute()
    return Path(getattr(platformdirs, platform_directory)(APP_NAME, appauthor=False))
