"""The direction in which Adam would move the parameters, were it given one example's gradient next.

LESS (arXiv 2402.04333, section 3.1 and appendix B): with the moments m, v of a warmup checkpoint taken after step t,

    m' = b1 m + (1 - b1) g            v' = b2 v + (1 - b2) g^2
    Gamma = (m' / (1 - b1^(t+1))) / (sqrt(v' / (1 - b2^(t+1))) + eps)

which is ``torch.optim.AdamW``'s own update divided by -lr, without weight decay (``form="paper"``). The released code
has no bias correction and puts eps inside the square root, Gamma = m' / sqrt(v' + eps); since v is mostly far below
eps = 1e-8 that nearly flattens the preconditioner. It is offered for parity as ``form="less-code"``.

``form="no-momentum"`` leaves the momentum out and takes v as the checkpoint has it:

    x = g / (sqrt(v / (1 - b2^t)) + eps)

After a short warmup m is most of Gamma and the same for every row, so that cosines tell rows by the lengths of their
own gradients. x holds nothing but the row's own gradient, on the scale of each parameter, and is linear in it: the
normaliser of bergson and of influence distillation, with Adam's bias correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from siftune._common.errors import ModelError

Form = Literal["paper", "less-code", "no-momentum"]


@dataclass(frozen=True)
class AdamDirection:
    """Turns gradients into Adam directions from a checkpoint's moments, matched by parameter name.

    Attributes:
        first: parameter name -> exp_avg (m), any shape.
        second: parameter name -> exp_avg_sq (v), the same shape.
        step: t, the number of optimizer steps that the moments have seen.
        betas: (b1, b2).
        eps: Adam's epsilon.
        form: ``"paper"``, ``"less-code"`` or ``"no-momentum"``.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    form: Form = "paper"

    def __call__(self, name: str, gradients: Tensor) -> Tensor:
        """The directions of a batch.

        Args:
            name: the parameter's name.
            gradients: float32 [rows, n], flattened per-example gradients; not changed.

        Returns:
            float32 [rows, n].

        Raises:
            ModelError: the checkpoint holds no moments for that parameter.
        """
        if name not in self.first or name not in self.second:
            raise ModelError(f"the warmup checkpoint holds no Adam moments for {name!r}",
                             hint="the adapter has changed since the warmup run: run again with --recompute")
        b1, b2 = self.betas
        m, v = (part[name].reshape(1, -1).to(gradients.device, torch.float32) for part in (self.first, self.second))
        if self.form == "no-momentum":
            return gradients / (v / (1 - b2**self.step)).sqrt_().add_(self.eps)
        # What is the same for all rows is made once, [1, n]; of all rows as few passes as can be: they are most of it.
        is_code = self.form == "less-code"
        first, second = (1.0, 1.0) if is_code else (1 - b1 ** (self.step + 1), 1 - b2 ** (self.step + 1))
        direction = torch.add(m * (b1 / first), gradients, alpha=(1 - b1) / first)
        scaled = v * (b2 / second)
        if is_code:
            return direction.div_(torch.addcmul(scaled.add_(self.eps), gradients, gradients, value=1 - b2).sqrt_())
        root = torch.addcmul(scaled, gradients, gradients, value=(1 - b2) / second).sqrt_().add_(self.eps)
        return direction.div_(root)
