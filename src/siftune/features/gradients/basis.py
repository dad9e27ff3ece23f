"""Directions made from the targets, and scoring against them: no random projection, a few floats an example.

When the targets are known before the pool is read, a pool row's inner products with a handful of directions are all
that its score needs. They are linear in the row's gradient, so they are added up parameter by parameter in the same
pass, like a projection:

* the unit gradients of the targets and the mean direction of every subtask give LESS's scores exactly;
* an orthonormal basis of the span of the targets' gradients gives GIST's features.

The matrix of directions [C, D] lives in one ``.npy`` file (memory-mapped while it is made, one parameter after the
other); a note beside it, with the place of every parameter, makes it an artefact once it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siftune._common.artefacts import Damaged, KeptFile, Unusable, keep_file, kept_file, payload_of
from siftune._common.artefacts.kept import note_of
from siftune._common.artefacts.sealed import remove, tell_damage
from siftune._common.errors import StoreCorrupt
from siftune._common.files import make_folder, write_error
from siftune.data.rows import Rendered
from siftune.features.gradients.engine import GradientEngine, LayerGradient, parameter_sizes
from siftune.models.batching import batch_cost, collate, plan_batches

CHUNK = 1 << 20  # columns handled at once
KIND = "directions"


def kept_directions(path: Path, made_from: str) -> KeptFile | None:
    """The artefact that :meth:`Directions.keep` has left, or None where it has to be made (again).

    Args:
        path: of the matrix.
        made_from: its key.
    """
    try:
        return kept_file(path, KIND, made_from)
    except Damaged as error:
        tell_damage(path, str(error))
    except Unusable:
        pass
    return None


class Directions:
    """A matrix [C, D] of directions in parameter space, on disk.

    Attributes:
        path: the ``.npy`` file.
        places: parameter name -> (first column, elements).
        matrix: float32 [C, D], memory-mapped.
    """

    def __init__(self, path: Path, places: Mapping[str, tuple[int, int]], mode: str = "r"):
        self.path, self.places = path, places
        self.matrix: np.ndarray = np.load(path, mmap_mode=mode)  # type: ignore[call-overload]

    @classmethod
    def kept(cls, file: KeptFile) -> Directions:
        """Those of an artefact, see :meth:`keep`.

        Raises:
            StoreCorrupt: the file has changed since it was opened.
        """
        if payload_of(file.path) != file.payload:
            raise StoreCorrupt(f"{file.path.name} is damaged", where=str(file.path),
                               why="Its bytes do not match their checksum.",
                               hint="run the same command again: it is made again")
        return cls(file.path, {name: (first, size) for name, first, size in file.about["parameters"]})

    def keep(self, made_from: str, about: Mapping[str, Any] | None = None) -> KeptFile:
        """Make the finished matrix an artefact, to be opened with :func:`kept_directions`.

        Args:
            made_from: its key.
            about: further JSON values to keep.
        """
        self.matrix.flush()  # type: ignore[attr-defined]
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        parameters = [[name, first, size] for name, (first, size) in self.places.items()]
        return keep_file(self.path, KIND, made_from, {"parameters": parameters, **(about or {})})

    @classmethod
    def create(cls, path: Path, rows: int, sizes: dict[str, int]) -> Directions:
        """A matrix of zeros to write into; parameters stand in the order of ``sizes``."""
        make_folder(path.parent)
        remove(note_of(path))
        remove(path)
        ends = np.cumsum(list(sizes.values())).tolist()
        places = {name: (end - size, size) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        try:
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, ends[-1])).flush()
            if hasattr(os, "posix_fallocate"):
                # Claim the space now: a memory map that finds the disk full later ends the process without a word.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise write_error(path, error) from error
        return cls(path, places, "r+")

    def sizes(self) -> dict[str, int]:
        return {name: size for name, (_, size) in self.places.items()}

    def part(self, name: str) -> np.ndarray:
        """float32 [C, n]: the columns of one parameter, read into memory."""
        first, size = self.places[name]
        return np.array(self.matrix[:, first : first + size])

    def chunks(self) -> Iterator[slice]:
        """Ranges of columns, one after the other."""
        width = self.matrix.shape[1]
        for start in range(0, width, CHUNK):
            yield slice(start, min(start + CHUNK, width))

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink()

    def gram(self) -> np.ndarray:
        """float64 [C, C]: inner products of the directions, streamed over the columns."""
        total = np.zeros((len(self.matrix), len(self.matrix)))
        for part in self.chunks():
            columns = self.matrix[:, part].astype(np.float64)
            total += columns @ columns.T
        return total

    def combined(self, path: Path, weights: np.ndarray) -> Directions:
        """The directions ``weights`` [R, C] times these, written to another file, streamed over the columns."""
        made = Directions.create(path, len(weights), self.sizes())
        for part in self.chunks():
            made.matrix[:, part] = weights @ self.matrix[:, part].astype(np.float64)
        made.matrix.flush()  # type: ignore[attr-defined]
        return made


def collect(engine: GradientEngine, rendered: Sequence[Rendered], path: Path, *, pad_id: int, batch_tokens: int,
            device: torch.device | str, on_batch: Callable[[list[int]], None] = lambda positions: None) -> Directions:
    """The plain gradients of some rows, whole, in their order: one row of the matrix each."""
    made = Directions.create(path, len(rendered), parameter_sizes(engine.model))
    with engine.capture():
        for positions in plan_batches([len(r) for r in rendered], batch_tokens, batch_cost=batch_cost(device)):

            def keep(gradient: LayerGradient, positions: list[int] = positions) -> None:
                first, size = made.places[gradient.name]
                made.matrix[positions, first : first + size] = gradient.full().cpu().numpy()

            engine.backward(collate([rendered[i] for i in positions], pad_id, device), keep)
            on_batch(positions)
    made.matrix.flush()  # type: ignore[attr-defined]
    return made


class Basis:
    """Inner products with directions, as a projection: float32 [rows, C].

    Args:
        dim: C, the number of directions.
        part: maps (parameter name, its size n) to the directions' part there, float32 [C, n].
    """

    kind = "basis"
    factored = False

    def __init__(self, dim: int, part: Callable[[str, int], np.ndarray]):
        self.dim, self._part = dim, part
        self._parts: dict[tuple[str, str], Tensor] = {}

    @classmethod
    def stored(cls, file: KeptFile) -> Basis:
        """Of the :class:`Directions` in a file."""
        directions = Directions.kept(file)
        return cls(len(directions.matrix), lambda name, size: directions.part(name))

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        return torch.zeros(rows, self.dim, device=device)

    def add(self, sketch: Tensor, gradient: LayerGradient) -> None:
        self.add_values(sketch, gradient.name, gradient.full())

    def add_values(self, sketch: Tensor, name: str, values: Tensor) -> None:
        """As :meth:`add`, of gradients float32 [b, n] of one parameter."""
        key = (name, str(values.device))
        if key not in self._parts:
            part = self._part(name, values.shape[1])
            self._parts[key] = torch.from_numpy(part).to(values.device)
        sketch += values @ self._parts[key].T

    def read(self, sketch: Tensor) -> Tensor:
        return sketch

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim}


class Stacked:
    """Several bases in one pass, as a projection whose numbers stand side by side: float32 [rows, C1 + C2 + ...].

    Each block is, to the last bit, what its basis gives alone.
    """

    kind = "stacked"
    factored = False

    def __init__(self, bases: Sequence[Basis]):
        self.bases = bases
        ends = np.cumsum([basis.dim for basis in bases]).tolist()
        self.dim = ends[-1]
        self.places = [slice(end - basis.dim, end) for basis, end in zip(bases, ends, strict=True)]

    def new(self, rows: int, device: torch.device | str) -> Tensor:
        return torch.zeros(rows, self.dim, device=device)

    def add(self, sketch: Tensor, gradient: LayerGradient) -> None:
        values = gradient.full()
        for basis, place in zip(self.bases, self.places, strict=True):
            basis.add_values(sketch[:, place], gradient.name, values)

    def read(self, sketch: Tensor) -> Tensor:
        return sketch

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "bases": [basis.fingerprint() for basis in self.bases]}
