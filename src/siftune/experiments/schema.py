"""The JSON schema of a study file, see :mod:`siftune.experiments.config`."""

from __future__ import annotations

from typing import Any

from siftune.config.schema import settings_schema
from siftune.config.settings import CompareConfig
from siftune.experiments.config import BASELINES, ELSEWHERE
from siftune.experiments.grid import MOST_ARMS

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_VALUES = {"type": "array", "minItems": 1}
_COUNT = {"type": "integer", "minimum": 1}

OWN: dict[str, dict[str, Any]] = {
    "targets": {
        "description": "What the model is to learn, each with rows that choose and rows that measure.",
        "type": "array", "minItems": 1,
        "items": {"type": "object", "required": ["name", "target", "test"], "additionalProperties": False,
                  "properties": {"name": {"type": "string"}, "target": _TEXTS, "test": _TEXTS}},
    },
    "methods": {"description": "Names as for --method.", **_TEXTS},
    "budgets": {"description": "How much to select: shares (5%), rows (500) or tokens (20ktok).",
                "anyOf": [{"type": ["string", "number"]}, {"type": "array", "items": {"type": ["string", "number"]}}]},
    "seeds": {"description": "Trainings of each method.", "default": 1, **_COUNT},
    "headline": {"description": "Methods and ablations with headline_seeds trainings.", **_TEXTS},
    "headline_seeds": {"description": "Trainings of each method of the headline.", "default": 3, **_COUNT},
    "baselines": {"description": "How many of each baseline.", "type": ["object", "null"],
                  "additionalProperties": False,
                  "properties": {name: {"type": "integer", "minimum": int(name == "random")} for name in BASELINES}},
    "train_models": {"description": "Further models that are trained on the same subsets.", **_TEXTS},
    "deciles": {"description": "Methods whose order of the pool is cut into ten.", **_TEXTS},
    "steps": {"description": "epochs, or about how many optimizer steps every training has.",
              "anyOf": [{"const": "epochs"}, _COUNT]},
    "ablations": {
        "description": "Methods with other settings.", "type": ["array", "null"],
        "items": {"type": "object", "required": ["name", "method", "settings"], "additionalProperties": False,
                  "properties": {"name": {"type": "string"}, "method": {"type": "string"},
                                 "settings": {"type": "object"}}},
    },
    "grid": {
        "description": "Settings of methods and selectors, each with a list of values: every combination is an "
                       f"ablation of each method that reads them, {MOST_ARMS} at most.",
        "type": ["object", "null"], "minProperties": 1,
        "additionalProperties": {"anyOf": [_VALUES, {"type": "object", "additionalProperties": _VALUES}]},
    },
}


def study_schema() -> dict[str, Any]:
    """The schema of a file that :func:`siftune.experiments.config.load_study` reads."""
    found = settings_schema(CompareConfig)
    shared = {name: value for name, value in found["properties"].items() if name not in ELSEWHERE}
    return {**found, "title": "A study of siftune", "properties": {**shared, **OWN},
            "required": ["pool", "output_dir", "targets", "methods", "budgets"]}
