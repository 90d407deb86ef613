"""TensorFlow and torch's CUDA build in one process.

Both bring an LLVM, torch in the package triton, which torch imports on first use, such as that of ``torch.optim``. Of the
two LLVMs the one that is loaded second registers its command line options again; where that is triton's the process aborts
("Option 'bitcode-mdindex-threshold' registered more than once"). Seen with torch 2.15 and TensorFlow 2.21. A torch without
CUDA has no triton, and no such trouble.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from contextlib import suppress

log = logging.getLogger(__name__)


def settle() -> None:
    """Load triton where TensorFlow may be loaded later; where it is too late for that, let torch not find triton.

    torch does without: only ``torch.compile`` for a GPU needs it. Cheap, and may be called again.
    """
    if "triton" in sys.modules or not _is_installed("triton") or not _is_installed("tensorflow"):
        return
    if "tensorflow" not in sys.modules:
        with suppress(ImportError):  # older ones need setuptools, and do not say so
            importlib.import_module("triton")
        return
    sys.modules["triton"] = None  # type: ignore[assignment]  # so that `import triton` is an ImportError
    log.warning(
        "TensorFlow was imported before torch's triton, which cannot be loaded after it without aborting the process; torch "
        "goes on without triton, that is without torch.compile for GPUs. To have both, import triton before tensorflow."
    )


def _is_installed(name: str) -> bool:
    return sys.modules[name] is not None if name in sys.modules else importlib.util.find_spec(name) is not None
