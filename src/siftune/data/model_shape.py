"""What a model can take: how many positions it has, and how many tokens its embedding knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.errors import ModelError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that rows must fit.

    Attributes:
        window: Most positions, ``None`` where the model has no limit or does not say it.
        vocabulary: Rows of its embedding, ``None`` where it does not say.
    """

    window: int | None = None
    vocabulary: int | None = None

    def length(self, asked: int) -> int:
        """The length to cut rows at: the one asked for, or the window where that is shorter."""
        return asked if self.window is None else min(asked, self.window)

    def check(self, ids: np.ndarray, tokenizer: Any) -> None:
        """Refuse token ids that the embedding does not have.

        Raises:
            ModelError: naming the id and its token.
        """
        if self.vocabulary is not None and len(ids) and int(ids.max()) >= self.vocabulary:
            raise self.misfit(int(ids.max()), tokenizer)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that has ids beyond the embedding, whether or not a row uses them.

        Raises:
            ModelError: naming the largest id and its token.
        """
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if self.vocabulary is not None and largest >= self.vocabulary:
            raise self.misfit(largest, tokenizer)

    def misfit(self, token: int, tokenizer: Any) -> ModelError:
        spelled = tokenizer.convert_ids_to_tokens(token)
        return ModelError(
            f"the model has no embedding for the token {token} ({spelled!r})", where="--model",
            why=f"The tokenizer knows it, the embedding has {self.vocabulary:,} rows (ids 0 to {self.vocabulary - 1})."
            if self.vocabulary else None,
            hint="use the tokenizer that belongs to the model, or save the model after "
                 "model.resize_token_embeddings(len(tokenizer))")
