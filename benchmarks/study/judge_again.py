"""Judge the recorded studies again, from the losses that they hold: after a change of the rule behind verdicts.

    python benchmarks/study/judge_again.py      # rewrites results/*.json; then write_results.py

Differences, intervals, p-values, verdicts, and what counts them, are made anew by the rule of
:mod:`siftune.evaluation.statistics`. Losses and everything else stay as they were recorded.
"""

from __future__ import annotations

from typing import Any

from write_results import CONFIDENCE, RESULTS, RUNS, Recorded, recorded  # pyright: ignore[reportMissingImports]

from siftune._common.files import write_json
from siftune.experiments.estimates import difference, judge

TESTED = ("difference", "low", "high", "covers", "p_value", "n_examples", "n_seeds")


def again(study: Recorded) -> None:
    told = study.told
    for test in told["tests"]:
        metric = "correct" if test["metric"] == "exact_match" else "loss"
        full = None if test["against"] == "full" else test["budget"]
        ours = study.losses(test["target"], test["method"], test["budget"], metric=metric)
        theirs = study.losses(test["target"], test["against"], full, metric=metric)
        assert ours is not None
        assert theirs is not None
        test.update(difference(ours, theirs, test["metric"], CONFIDENCE) or {})
    for family in ([t for t in told["tests"] if t["against"] != "full"],
                   [t for t in told["tests"] if t["against"] == "full"]):
        judge(family, CONFIDENCE)
    for rank in told["ranking"]:
        found = [t["verdict"] for t in told["tests"]
                 if (t["method"], t["against"], t["metric"]) == (rank["name"], "random", "loss")]
        rank.update(judged=len(found) - found.count("single training"), better=found.count("better"),
                    worse=found.count("worse"))
    for one in told["analyses"].get("ablations", []):
        test = study.test(one["target"], one["budget"], one["name"], one["method"])
        if test:
            one.update({key: test[key] for key in (*TESTED, "p_value_holm", "verdict")})
    gains = []
    for place in told["analyses"]["transfer"]:
        for gain in place["gains"]:
            ours, theirs = (study.losses(place["target"], name, place["budget"], place["model"])
                            for name in (gain["name"], "random"))
            if ours is None or theirs is None:
                raise SystemExit(f"{study.name}: the losses of {gain['name']} on {place['model']} are not recorded")
            found = difference(ours, theirs, "loss", CONFIDENCE) or {}
            gain.update({key: found[key] for key in ("difference", "low", "high", "p_value")})
            gains.append(gain)
    _adjusted(gains)
    subtasks = [s for s in told["analyses"].get("subtasks", []) if s["difference"] is not None]
    for one in subtasks:
        names = next(t for t in told["targets"] if t["name"] == one["target"])["subtasks"]
        places = [i for i, name in enumerate(names) if name == one["subtask"]]
        ours, theirs = (study.losses(one["target"], name, one["budget"]) for name in (one["name"], "random"))
        assert ours is not None
        assert theirs is not None
        one.update(difference(ours[:, places], theirs[:, places], "loss", CONFIDENCE) or {})
    tested = [one for one in subtasks if one["p_value"] is not None]
    judge(subtasks, CONFIDENCE)
    for one in subtasks:
        one["family"] = len(tested) if one["p_value"] is not None else None


def _adjusted(gains: list[dict[str, Any]]) -> None:
    copies = [dict(gain) for gain in gains]
    judge(copies, CONFIDENCE)
    for gain, copy in zip(gains, copies, strict=True):
        gain["p_value_holm"] = copy["p_value_holm"]


def main() -> None:
    for name in RUNS:
        if study := recorded(name):
            before = [t["verdict"] for t in study.told["tests"]]
            again(study)
            after = [t["verdict"] for t in study.told["tests"]]
            write_json(RESULTS / f"{name}.json", study.told)
            print(name, {(b, a): list(zip(before, after, strict=True)).count((b, a))
                         for b, a in sorted(set(zip(before, after, strict=True)))})


if __name__ == "__main__":
    main()
