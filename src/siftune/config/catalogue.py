"""Every method and selector by name, and the recipes that papers made of them: names, and where each lives.

Nothing that is named here is imported before it is asked for. Installed packages add their own through the entry-point
groups ``siftune.methods`` and ``siftune.selectors``, see :mod:`siftune._common.registry`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from siftune._common.registry import Registry, unknown_name
from siftune.config.options import OwnSettings


def _wrong_settings(found: Any) -> str:
    settings = getattr(found, "Settings", OwnSettings)
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        return "its Settings is not a dataclass"
    return ""


def _wrong_method(found: Any) -> str:
    if not isinstance(found, type):
        return "a class was expected"
    lacking = [name for name in ("name", "summary", "paper", "cost", "needs_target", "needs_model", "compute")
               if not hasattr(found, name)]
    if lacking:
        return f"a class with {', '.join(lacking)} was expected"
    return _wrong_settings(found)


def _wrong_selector(found: Any) -> str:
    if not (hasattr(found, "info") and callable(getattr(found, "run", None))):
        return "a siftune.selectors.Selector was expected"
    return _wrong_settings(found)


METHODS = Registry("method", {
    "less": "siftune.methods.less:Less",
    "gist": "siftune.methods.gist:Gist",
    "logra": "siftune.methods.logra:LoGra",
    "embed": "siftune.methods.embedding:Embedding",
    "bm25": "siftune.methods.bm25:Bm25",
    "fusion": "siftune.methods.fusion:Fusion",
    "two-stage": "siftune.methods.two_stage:TwoStage",
    "landmarks": "siftune.methods.landmarks:Landmarks",
    "dsir": "siftune.methods.dsir:Dsir",
    "learning-percentage": "siftune.methods.learning_percentage:LearningPercentage",
    "ifd": "siftune.methods.ifd:Ifd",
    "rds": "siftune.methods.rds:Rds",
    "mads": "siftune.methods.mads:Mads",
    "nag": "siftune.methods.nag:Nag",
    "nait": "siftune.methods.nait:Nait",
    "loss": "siftune.methods.loss:LossScore",
    "loss-drop": "siftune.methods.loss_drop:LossDrop",
    "utility": "siftune.methods.utility:Utility",
    "file": "siftune.methods.from_file:FromFile",
    "none": "siftune.methods.nothing:Nothing",
}, groups=("siftune.methods", "siftune.representations"), wrong=_wrong_method)

NAME_PARTS = ("signals", "first", "second")
"""Settings that name the methods which a method is made of, and so say whose settings are read besides."""

SELECTORS = Registry("selector", {
    "top-k": "siftune.selectors.topk:TOP_K",
    "top-k-mean": "siftune.selectors.topk:TOP_K_MEAN",
    "top-k-subtask": "siftune.selectors.topk:TOP_K_SUBTASK",
    "round-robin": "siftune.selectors.round_robin:ROUND_ROBIN",
    "round-robin-subtask": "siftune.selectors.round_robin:ROUND_ROBIN_SUBTASK",
    "bids": "siftune.selectors.bids:BIDS",
    "interaction-greedy": "siftune.selectors.interaction:INTERACTION_GREEDY",
    "unbalanced-ot": "siftune.selectors.transport:UNBALANCED_OT",
    "balanced-ot": "siftune.selectors.transport:BALANCED_OT",
    "knn-uniform": "siftune.selectors.knn:KNN_UNIFORM",
    "knn-kde": "siftune.selectors.knn:KNN_KDE",
    "k-center": "siftune.selectors.k_center:K_CENTER",
    "herding": "siftune.selectors.herding:HERDING",
    "k-means-balanced": "siftune.selectors.k_means:K_MEANS_BALANCED",
    "deita": "siftune.selectors.deita:DEITA",
    "resampling": "siftune.selectors.resampling:RESAMPLING",
    "random": "siftune.selectors.baselines:RANDOM",
    "length-matched-random": "siftune.selectors.length_matched:LENGTH_MATCHED_RANDOM",
    "longest": "siftune.selectors.baselines:LONGEST",
    "facility-location": "siftune.selectors.facility_location:FL",
    "flmi": "siftune.selectors.facility_location:FLMI",
    "flqmi": "siftune.selectors.facility_location:FLQMI",
    "flcg": "siftune.selectors.facility_location:FLCG",
    "flcmi": "siftune.selectors.facility_location:FLCMI",
    "graph-cut": "siftune.selectors.graph_cut:GRAPH_CUT",
    "log-det": "siftune.selectors.log_det:LOG_DET",
    "coverage": "siftune.selectors.coverage:COVERAGE",
}, groups=("siftune.selectors",), wrong=_wrong_selector, reserved=METHODS.own)


@dataclass(frozen=True)
class Recipe:
    """What ``--method`` names: a method and a selector, as a paper puts them together.

    Attributes:
        name: as written after ``--method``.
        representation: name of the method that says what is computed of rows.
        selector: name of the selector.
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


RECIPES = {
    m.name: m
    for m in (
        Recipe("less", "less", "top-k-subtask", "LESS as published: best cosine to any subtask's mean target gradient.",
               "arXiv 2402.04333"),
        Recipe("less-round-robin", "less", "round-robin", "LESS features, targets take turns: the published choice for "
               "small budgets.", "arXiv 2602.14696"),
        Recipe("less-ot", "less", "unbalanced-ot", "LESS features, optimal transport: the published choice for larger "
               "budgets.", "arXiv 2602.14696"),
        Recipe("gist", "gist", "top-k-subtask", "GIST as published: best cosine inside the span of the targets' "
               "gradients.", "arXiv 2602.18584"),
        Recipe("logra", "logra", "top-k-subtask", "Gradients of the base model, no warmup: the fast option.",
               "arXiv 2405.13954"),
        Recipe("embed", "embed", "round-robin", "Sentence embeddings, targets take turns: no language model is run.",
               "arXiv 2602.14696"),
        Recipe("bm25", "bm25", "round-robin", "Lexical search for the targets' prompts, targets take turns."),
        Recipe("fusion", "fusion", "round-robin", "BM25, sentence embeddings and hidden states added up, targets take "
               "turns: rarely the worst of the three."),
        Recipe("two-stage", "two-stage", "round-robin", "LESS on the rows that its last checkpoint finds for the "
               "targets: a third of its passes."),
        Recipe("landmarks", "landmarks", "round-robin", "LESS on a few random rows, carried to the others by sentence "
               "embeddings.", "influence distillation (released code)"),
        Recipe("dsir", "dsir", "resampling", "DSIR as published: rows drawn by the importance weights of their words "
               "and word pairs.", "arXiv 2302.03169"),
        Recipe("learning-percentage", "learning-percentage", "k-means-balanced", "The rows learned last in every "
               "cluster of sentence embeddings; no target is needed.", "arXiv 2402.10430"),
        Recipe("ifd", "ifd", "top-k", "The rows whose prompt helps least to predict the response, without those where "
               "it does not help at all; no target is needed.", "arXiv 2402.00530"),
        Recipe("rds+", "rds", "round-robin", "RDS+ as published: weighted mean hidden states, targets take turns; with "
               "several tasks: --selector round-robin-subtask.", "arXiv 2503.01807"),
        Recipe("mads", "mads", "coverage", "The rows that together activate most neurons; no target is needed (our "
               "reading of the abstract).", "arXiv 2605.30857"),
        Recipe("nag", "nag", "round-robin", "Overlap of active neurons with those of the targets; subtasks take turns.",
               "arXiv 2604.15706"),
        Recipe("nait", "nait", "top-k", "Activations along the directions of the targets' responses, as published.",
               "arXiv 2603.13201"),
        Recipe("loss", "loss", "top-k", "The rows whose response the model finds hardest."),
        Recipe("loss-drop", "loss-drop", "round-robin", "The rows that become easiest by a short training on the "
               "targets; subtasks take turns.", "after arXiv 2510.00386, 2406.10670"),
        Recipe("delift", "utility", "facility-location", "DELIFT: rows that, shown as examples, help the model to "
               "answer the others, or the targets, or what it does not know yet.", "arXiv 2411.04425"),
        Recipe("random", "none", "random", "A seeded uniform sample: the baseline to beat."),
        Recipe("length-matched-random", "none", "length-matched-random", "Random rows of the pool with the response "
               "lengths of the targets."),
        Recipe("longest", "none", "longest", "The rows with the longest responses."),
    )
}

#: DELIFT's three stages (arXiv 2411.04425, section 3), by whether a target and existing rows are given.
DELIFT_STAGES = {(False, False): "facility-location", (True, False): "flqmi", (False, True): "flcg",
                 (True, True): "flcmi"}


def recipe_named(name: str, has_target: bool = True, has_existing: bool = False) -> Recipe:
    """The recipe of a name: a published one, ``METHOD:SELECTOR``, ``file:PATH``, or a method of its own with the
    selector that it names as its usual one (else top-k).

    Raises:
        ConfigError: there is no such name.
    """
    if ":" in name:
        left, _, right = name.rpartition(":")
        if left == "file":  # file:PATH alone
            left, right = name, "top-k"
        METHODS.get(owner_of(left), flag="--method")
        SELECTORS.get(right, flag="--method")
        return Recipe(name, left, right, "A free combination.")
    if name in RECIPES:
        recipe = RECIPES[name]
        return replace(recipe, selector=DELIFT_STAGES[has_target, has_existing]) if name == "delift" else recipe
    if name in METHODS and name not in ("file", "none"):
        found = METHODS.get(name, flag="--method")
        return Recipe(name, name, getattr(found, "selector", "top-k"), found.summary, found.paper)
    raise unknown_name("method", name, [*RECIPES, *METHODS.names(plugins_only=True), "auto"], flag="--method")


def owner_of(representation: str) -> str:
    """The name of the method behind ``file:PATH``, else the name itself."""
    return representation.partition(":")[0]


def owner_named(text: str) -> str | None:
    """The method or selector that a word before a setting means: its own name, or that of a recipe made of a method;
    with underscores for hyphens too, since Python's keyword arguments cannot have hyphens."""
    for name in (text, text.replace("_", "-")):
        if name in METHODS or name in SELECTORS:
            return name
        if name in RECIPES:
            return RECIPES[name].representation
    return None


def owners() -> list[str]:
    """The names of all methods and selectors."""
    return [*METHODS.names(), *SELECTORS.names()]


def settings_type(owner: str) -> type[Any]:
    """The dataclass of a method's or selector's own settings.

    Raises:
        ConfigError: there is no such method or selector, or its package is broken.
    """
    registry = METHODS if owner in METHODS else SELECTORS
    return getattr(registry.get(owner), "Settings", OwnSettings)
