"""What each method name means: a representation and a selector, as a paper puts them together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import Registry, unknown_name
from siftune.pipeline.auto import Situation, recommend

REPRESENTATIONS = Registry("representation", {
    "less": "siftune.methods.less:Less",
    "gist": "siftune.methods.gist:Gist",
    "logra": "siftune.methods.logra:LoGra",
    "embed": "siftune.methods.embedding:Embedding",
    "bm25": "siftune.methods.bm25:Bm25",
    "dsir": "siftune.methods.dsir:Dsir",
    "learning-percentage": "siftune.methods.learning_percentage:LearningPercentage",
    "ifd": "siftune.methods.ifd:Ifd",
    "rds": "siftune.methods.rds:Rds",
    "mads": "siftune.methods.mads:Mads",
    "nag": "siftune.methods.nag:Nag",
    "nait": "siftune.methods.nait:Nait",
    "loss": "siftune.methods.loss:LossScore",
    "utility": "siftune.methods.utility:Utility",
    "none": "siftune.methods.nothing:Nothing",
})

_BY_PATH = Registry("representation by a path", {"file": "siftune.methods.from_file:FromFile"})


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
        Method("bm25", "bm25", "round-robin", "Lexical search for the targets' prompts, targets take turns."),
        Method("dsir", "dsir", "resampling", "DSIR as published: rows drawn by the importance weights of their words "
               "and word pairs.", "arXiv 2302.03169"),
        Method("learning-percentage", "learning-percentage", "k-means-balanced", "The rows learned last in every "
               "cluster of sentence embeddings; no target is needed.", "arXiv 2402.10430"),
        Method("ifd", "ifd", "top-k", "The rows whose prompt helps least to predict the response, without those where "
               "it does not help at all; no target is needed.", "arXiv 2402.00530"),
        Method("rds+", "rds", "round-robin", "RDS+ as published: weighted mean hidden states, targets take turns; with "
               "several tasks: --selector round-robin-subtask.", "arXiv 2503.01807"),
        Method("mads", "mads", "coverage", "The rows that together activate most neurons; no target is needed (our "
               "reading of the abstract).", "arXiv 2605.30857"),
        Method("nag", "nag", "round-robin", "Overlap of active neurons with those of the targets; subtasks take turns.",
               "arXiv 2604.15706"),
        Method("nait", "nait", "top-k", "Activations along the directions of the targets' responses, as published.",
               "arXiv 2603.13201"),
        Method("loss", "loss", "top-k", "The rows whose response the model finds hardest."),
        Method("delift", "utility", "facility-location", "DELIFT: rows that, shown as examples, help the model to "
               "answer the others, or the targets, or what it does not know yet.", "arXiv 2411.04425"),
        Method("random", "none", "random", "A seeded uniform sample: the baseline to beat."),
        Method("length-matched-random", "none", "length-matched-random", "Random rows of the pool with the response "
               "lengths of the targets."),
        Method("longest", "none", "longest", "The rows with the longest responses."),
    )
}


#: DELIFT's three stages (arXiv 2411.04425, section 3), by whether a target and existing rows are given.
DELIFT_STAGES = {(False, False): "facility-location", (True, False): "flqmi", (False, True): "flcg",
                 (True, True): "flcmi"}


def representation_of(name: str, *, flag: str = "--representation") -> Any:
    """The representation of a name, or of ``file:PATH``.

    Raises:
        ConfigError: there is no such name.
    """
    if name.startswith("file:"):
        return _BY_PATH.get("file")(name.removeprefix("file:"))
    return REPRESENTATIONS.get(name, flag=flag)()


def resolve(method: str, representation: str = "", selector: str = "", *, has_target: bool = True,
            has_existing: bool = False, situation: Situation | None = None) -> Method:
    """The recipe of a name, with its parts replaced where the user names them.

    Args:
        method: a key of :data:`METHODS`, ``auto``, or ``REPRESENTATION:SELECTOR``.
        representation, selector: replacements; empty to keep the method's own.
        has_target, has_existing: whether there are such files.
        situation: what ``auto`` looks at besides; as good as a small pool when not given.

    Raises:
        ConfigError: an unknown name, or a method that needs a target and has none.
    """
    from siftune.selectors import SELECTORS

    if method == "auto":
        advice = recommend(situation or Situation(has_target, has_existing))
        chosen = _named(advice.method, has_target, has_existing)
        chosen = replace(chosen, selector=advice.selector or chosen.selector, reason=advice.reason)
    elif ":" in method:
        left, _, right = method.rpartition(":")
        if left == "file":  # file:PATH alone
            left, right = method, "top-k"
        representation_of(left, flag="--method")
        SELECTORS.get(right, flag="--method")
        chosen = Method(method, left, right, "A free combination.")
    else:
        chosen = _named(method, has_target, has_existing)
    if representation or selector:
        rep, sel = representation or chosen.representation, selector or chosen.selector
        representation_of(rep)
        SELECTORS.get(sel, flag="--selector")
        chosen = Method(f"{rep}:{sel}", rep, sel, "A free combination.")
    found = representation_of(chosen.representation)
    needs = SELECTORS.get(chosen.selector).info.needs
    if not has_target and found.needs_target and needs not in getattr(found, "without_target", ()):
        raise ConfigError(f"the method {chosen.name} compares with targets, and there are none", where="--target",
                          hint="give a file with a few examples of what the model must learn, or choose a method that "
                               "needs none: --method mads, or random")
    return chosen


def _named(name: str, has_target: bool, has_existing: bool) -> Method:
    if name not in METHODS:
        raise unknown_name("method", name, [*METHODS, "auto"], flag="--method")
    method = METHODS[name]
    if name == "delift":
        return replace(method, selector=DELIFT_STAGES[has_target, has_existing])
    return method
