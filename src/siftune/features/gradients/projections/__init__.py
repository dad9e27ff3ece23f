"""Random projections that depend on a seed and a parameter's name, and on nothing else; one published kind a file.

* ``sparse_jl.py`` - sparse Johnson-Lindenstrauss (the default) and CountSketch.
* ``rademacher.py`` - dense +-1, LESS's own.
* ``srht.py`` - subsampled randomised Hadamard transform.
* ``grass.py`` - GraSS (mask, then sketch) and FactGraSS (masks on both factors, then sketch).
* ``logra.py`` - LoGra: both factors of a layer's gradient projected, then one sketch over all layers.

Choices:

* A projection is defined parameter by parameter. The part of ``layers.3.q_proj.lora_A`` is the same whichever other
  parameters are adapted, in whatever order their gradients arrive.
* All randomness is the raw Philox stream keyed by (seed, kind, name), so it is the same on every machine, device and
  NumPy version, and needs no compiled package.
* Results do not depend on the batch: every row is projected by operations of fixed shape and order.

All preserve inner products in expectation. The element-wise kinds take any vectors; the ``factored`` ones take the
two factors of a linear layer's gradient and never form the gradient, so nothing can be done to its elements before.
"""

from __future__ import annotations

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.features.gradients.projections.base import VERSION, Projection
from siftune.features.gradients.projections.grass import FactGraSS, GraSS
from siftune.features.gradients.projections.logra import LoGra
from siftune.features.gradients.projections.rademacher import Rademacher
from siftune.features.gradients.projections.sparse_jl import CountSketch, SparseJL
from siftune.features.gradients.projections.srht import SRHT

KINDS: dict[str, type] = {
    kind.kind: kind for kind in (SparseJL, CountSketch, Rademacher, SRHT, GraSS, LoGra, FactGraSS)
}


def projection(kind: str, dim: int, seed: int) -> Projection:
    """The projection of that kind.

    Raises:
        ConfigError: unknown kind, or a dimension below 1.
    """
    if kind not in KINDS:
        raise unknown_name("projection", kind, KINDS, flag="--set projection")
    if dim < 1:
        raise ConfigError(f"cannot project to {dim} dimensions", where="--set projection_dim",
                          hint="LESS uses 8192; 1024 is a good choice for a small disk")
    return KINDS[kind](dim, seed)


__all__ = ["KINDS", "SRHT", "VERSION", "CountSketch", "FactGraSS", "GraSS", "LoGra", "Projection", "Rademacher",
           "SparseJL", "projection"]
