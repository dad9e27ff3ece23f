"""What each method name means: a representation and a selector, as a paper puts them together."""

from __future__ import annotations

from dataclasses import dataclass

from siftune.errors import ConfigError
from siftune.registry import Registry, unknown_name

REPRESENTATIONS = Registry("representation", {
    "less": "siftune.representations.less:Less",
    "gist": "siftune.representations.gist:Gist",
    "logra": "siftune.representations.logra:LoGra",
    "embed": "siftune.representations.embedding:Embedding",
    "none": "siftune.representations.nothing:Nothing",
})


@dataclass(frozen=True)
class Method:
    """A whole recipe.

    Attributes:
        name: as written after ``--method``.
        representation, selector: names of both registries.
        summary: one sentence.
        paper: where the recipe is published; empty for a baseline.
        reason: why it was chosen, when ``auto`` chose it.
    """

    name: str
    representation: str
    selector: str
    summary: str
    paper: str = ""
    reason: str = ""


METHODS = {
    m.name: m
    for m in (
        Method("less", "less", "top-k-subtask", "LESS as published: best cosine to any subtask's mean target gradient.",
               "arXiv 2402.04333"),
        Method("less-round-robin", "less", "round-robin", "LESS features, targets take turns: the published choice for "
               "small budgets.", "arXiv 2602.14696"),
        Method("less-ot", "less", "unbalanced-ot", "LESS features, optimal transport: the published choice for larger "
               "budgets.", "arXiv 2602.14696"),
        Method("gist", "gist", "top-k-subtask", "GIST as published: best cosine inside the span of the targets' "
               "gradients.", "arXiv 2602.18584"),
        Method("logra", "logra", "top-k-subtask", "Gradients of the base model, no warmup: the fast option.",
               "arXiv 2405.13954"),
        Method("embed", "embed", "round-robin", "Sentence embeddings, targets take turns: no language model is run.",
               "arXiv 2602.14696"),
        Method("random", "none", "random", "A seeded uniform sample: the baseline to beat."),
        Method("length-matched-random", "none", "length-matched-random", "Random rows of the pool with the response "
               "lengths of the targets."),
        Method("longest", "none", "longest", "The rows with the longest responses."),
    )
}


def resolve(method: str, representation: str = "", selector: str = "", *, has_target: bool = True) -> Method:
    """The recipe of a name, with its parts replaced where the user names them.

    Args:
        method: a key of :data:`METHODS`, ``auto``, or ``REPRESENTATION:SELECTOR``.
        representation, selector: replacements; empty to keep the method's own.
        has_target: whether there is a target file.

    Raises:
        ConfigError: an unknown name, or a method that needs a target and has none.
    """
    from siftune.selectors import SELECTORS

    if method == "auto":
        chosen = METHODS["less-round-robin"] if has_target else METHODS["random"]
        reason = ("a target is given: LESS gradients with greedy round-robin is the published recipe for small budgets"
                  if has_target else "no target is given, and no method without a target is built in yet")
    elif ":" in method:
        left, _, right = method.partition(":")
        REPRESENTATIONS.get(left, flag="--method")
        SELECTORS.get(right, flag="--method")
        chosen, reason = Method(method, left, right, "A free combination."), ""
    elif method in METHODS:
        chosen, reason = METHODS[method], ""
    else:
        raise unknown_name("method", method, [*METHODS, "auto"], flag="--method")
    if representation or selector:
        rep, sel = representation or chosen.representation, selector or chosen.selector
        REPRESENTATIONS.get(rep, flag="--representation")
        SELECTORS.get(sel, flag="--selector")
        chosen = Method(f"{rep}:{sel}", rep, sel, "A free combination.")
        reason = ""
    if not has_target and REPRESENTATIONS.get(chosen.representation).needs_target:
        raise ConfigError(f"the method {chosen.name} compares with targets, and there are none", where="--target",
                          hint="give a file with a few examples of what the model must learn, or --method random")
    return Method(chosen.name, chosen.representation, chosen.selector, chosen.summary, chosen.paper, reason)
