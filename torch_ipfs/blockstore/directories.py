"""Where the user's blocks and caches live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from torch_ipfs.blockstore.base import StrPath
from torch_ipfs.errors import OptionError

APP_NAME = "torch_ipfs"


def data_directory() -> Path:
    """The local store's folder: TORCH_IPFS_HOME, else the platform's for a user's data. It need not exist.

    :raises OptionError: as :func:`cache_directory`.
    """
    return _directory("TORCH_IPFS_HOME", "user_data_dir")


def cache_directory() -> Path:
    """The folder of what can be made or fetched again: TORCH_IPFS_CACHE_DIR, else the platform's for caches.

    :raises OptionError: it is in the home of a user who is not there, or the process has no home.
    """
    return _directory("TORCH_IPFS_CACHE_DIR", "user_cache_dir")


def home_expanded(path: StrPath) -> Path:
    """``path``, with the home of its user in place of ``~``.

    :raises OptionError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OptionError(
            f"{os.fspath(path)!r} is no path here: {error} A file of that name is ./{os.fspath(path)}"
        ) from None


def absolute(path: StrPath) -> str:
    """``path`` from the root on, with ``~`` and ``..`` worked out.

    :raises OptionError: it is relative and the current folder is no longer there, or it is no path.
    """
    if not isinstance(path, str | os.PathLike) or path == "":  # which pathlib takes for the current folder
        raise OptionError(f"{path!r:.80} is no path")
    text = os.fspath(home_expanded(path))
    if "\0" in text:
        raise OptionError(f"{text!r} is no path: there is a NUL in it")
    try:
        return os.path.abspath(text)  # noqa: PTH100 - pathlib's absolute() keeps ".."
    except FileNotFoundError:
        raise OptionError(f"{text!r} is relative to the current folder, which was deleted: name it from / on") from None


def _directory(variable: str, platform_directory: str) -> Path:
    named = os.environ.get(variable)
    if named:
        return Path(absolute(named))
    try:
        folder = Path(getattr(platformdirs, platform_directory)(APP_NAME, appauthor=False))
    except RuntimeError:
        folder = Path("~")
    if not folder.is_absolute():  # HOME is not set, and nobody has this process's user id
        raise OptionError(f"this user has no home folder: set {variable} to the path of a folder")
    return folder
