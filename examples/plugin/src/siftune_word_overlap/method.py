"""How many of the targets' words a row has: a method in one file.

    score(row) = |W(row) and W(targets)| / |W(row)|^length_power,    W: the set of words of at least min_letters letters
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from siftune.config.options import NOT_NEGATIVE, OwnSettings, Rule, option
from siftune.data.text.rows import conversation_text, text_key
from siftune.features.base import Computed, Context, deciding_features


@dataclass(frozen=True)
class WordOverlapSettings(OwnSettings):
    min_letters: int = option(4, "Shorter words do not count.", rule=Rule("from 1 to 40", lambda x: 1 <= x <= 40))
    length_power: float = option(0.5, "How much a row's number of words counts against it: 0 for not at all, 1 for the "
                                 "share of its words.", rule=NOT_NEGATIVE)


class WordOverlap:
    """`siftune methods word-overlap` shows what stands here."""

    Settings = WordOverlapSettings
    selector = "strided-top"  # what --method word-overlap stands for; without this line it is top-k
    name = "word-overlap"
    summary = "How many of the targets' words a row has."
    paper = ""
    cost = "seconds: words are counted, no model is run"
    needs_target = True
    needs_model = False

    def compute(self, context: Context) -> Computed:
        settings = context.settings  # an instance of WordOverlapSettings, checked
        with context.clock.measure("words"):
            wanted = set().union(*(self._words(conversation_text(row), settings) for row in context.target.rows))
            scores = np.array([self._score(self._words(conversation_text(row), settings), wanted, settings)
                               for row in context.pool.rows])
        fingerprint = {"data": text_key(context.pool.rows), "targets": text_key(context.target.rows),
                       "settings": deciding_features(self, settings)}
        return Computed(scores=scores, fingerprint=fingerprint, notes={"target_words": len(wanted)})

    @staticmethod
    def _words(text: str, settings: WordOverlapSettings) -> set[str]:
        return {word for word in re.findall(r"\w+", text.lower()) if len(word) >= settings.min_letters}

    @staticmethod
    def _score(words: set[str], wanted: set[str], settings: WordOverlapSettings) -> float:
        return len(words & wanted) / max(1, len(words)) ** settings.length_power
