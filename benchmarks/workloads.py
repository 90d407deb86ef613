"""The datasets that are measured: random rows, as plain arrays for numpy.memmap and as CARs of the same rows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import torch_ipfs

HASH_FUNCTIONS = ("sha2-256", "blake3")
_SEED = 20_26
_FILL_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows of one tensor ``x`` and one int64 ``label``.

    :param shape: of ``x`` in one row.
    """

    name: str
    num_rows: int
    shape: tuple[int, ...]
    dtype: str
    batch_size: int

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize + 8

    @property
    def total_bytes(self) -> int:
        return self.num_rows * self.row_bytes


WORKLOADS = (
    Workload("tabular", 200_000, (10,), "float32", 256),
    Workload("cifar-like", 50_000, (3, 32, 32), "uint8", 256),
    Workload("blob", 4_000, (112_640,), "uint8", 64),
)
SMALL_ROWS = 20_000
"""Rows of the tabular workload that are also written embedded in the manifest, and as one block each."""

TINY_WORKLOADS = (
    Workload("tabular", 2_000, (10,), "float32", 256),
    Workload("cifar-like", 300, (3, 32, 32), "uint8", 256),
    Workload("blob", 80, (112_640,), "uint8", 64),
)
"""The same rows, fewer of them: to see that every measurement runs, not to learn anything from its figures."""
TINY_SMALL_ROWS = 500


@dataclass(frozen=True, slots=True)
class Written:
    """A dataset in a CAR."""

    root: str
    car: str


class Arrays:
    """The plain files of one workload under ``folder``."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        self._workload = workload
        self._x, self._label = folder / f"{workload.name}.x", folder / f"{workload.name}.label"

    def open(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """``x`` and ``label`` mapped, shapes (rows, *shape) and (rows,)."""
        w = self._workload
        x = np.memmap(self._x, dtype=w.dtype, mode="r", shape=(w.num_rows, *w.shape))
        return x, np.memmap(self._label, dtype=np.int64, mode="r", shape=(w.num_rows,))

    def write(self) -> None:
        """Fill the files with rows that are the same each time; ``label`` counts the rows.

        They are written, as a CAR is, and not mapped for it: Linux keeps what is written in larger pieces, which halves what
        a first reading through a map costs.
        """
        w, bits = self._workload, np.random.default_rng(_SEED)
        with self._x.open("wb") as file:
            for start in range(0, w.num_rows, _FILL_ROWS):
                shape = (min(_FILL_ROWS, w.num_rows - start), *w.shape)
                if w.dtype == "float32":
                    bits.standard_normal(shape, dtype=np.float32).tofile(file)
                else:
                    file.write(bits.bytes(int(np.prod(shape))))
        np.arange(w.num_rows).tofile(self._label)


class Data:
    """A folder with the plain files and the CARs of some workloads.

    :param small_rows: rows of the first workload that are written in the other layouts too.
    """

    def __init__(self, folder: Path, workloads: tuple[Workload, ...], small_rows: int) -> None:
        self.folder = folder
        self.workloads = {workload.name: workload for workload in workloads}
        self.small_rows = small_rows

    @classmethod
    def load(cls, folder: Path) -> Data:
        """What :meth:`write` left in ``folder``."""
        told = json.loads((folder / "data.json").read_text())
        workloads = tuple(Workload(**{**w, "shape": tuple(w["shape"])}) for w in told["workloads"])
        return cls(folder, workloads, told["small_rows"])

    def arrays(self, name: str) -> Arrays:
        return Arrays(self.folder, self.workloads[name])

    def written(self, name: str, layout: str, hash_function: str) -> Written:
        path = self._car(name, layout, hash_function)
        return Written(path.with_suffix(".root").read_text(), str(path))

    def write(self) -> None:
        """Write everything, and have it on the disk before anything is measured."""
        for name, workload in self.workloads.items():
            self.arrays(name).write()
            x, label = self.arrays(name).open()
            for hash_function in HASH_FUNCTIONS:
                self._write_car({"x": x, "label": label}, name, "packed", hash_function)
            if workload.dtype == "float32":
                small = {"x": x[: self.small_rows], "label": label[: self.small_rows]}
                for layout in ("embedded", "samples"):
                    self._write_car(small, name, layout, HASH_FUNCTIONS[0])
        workloads = [
            {slot: getattr(workload, slot) for slot in Workload.__slots__} for workload in self.workloads.values()
        ]
        (self.folder / "data.json").write_text(json.dumps({"workloads": workloads, "small_rows": self.small_rows}))
        os.sync()

    def warm(self, name: str) -> None:
        """Read every file of a workload once, so that all of them are in the page cache: a system may have taken back what was
        not used for some minutes.
        """
        for path in sorted(self.folder.glob(f"{name}.*")):
            with path.open("rb", buffering=0) as file:
                while file.read(2**22):
                    pass

    def _car(self, name: str, layout: str, hash_function: str) -> Path:
        return self.folder / f"{name}.{layout}.{hash_function}.car"

    def _write_car(self, columns: Any, name: str, layout: Any, hash_function: Any) -> None:
        path = self._car(name, layout, hash_function)
        root = torch_ipfs.write_dataset(columns, path, layout=layout, hash_function=hash_function)
        path.with_suffix(".root").write_text(str(root))
