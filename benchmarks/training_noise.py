"""How much of a training's result is luck, and what lowers it: rows drawn, order and adapter, and the settings.

    python benchmarks/training_noise.py --data FOLDER --keep FOLDER [--rows 64] [--settings NAME ...]

Only random rows are trained on, so that whatever is chosen here favours no method. Each of ``--draws`` random subsets
is trained with each of ``--seeds`` seeds (adapter's first weights, order of the rows) in every setting and scored on
the first ``--test-rows`` rows of every target. For every target and setting the variance of the score is taken apart by
a two-way analysis without repetition: rows drawn, seed, and what is left (their interaction). A training is kept as
soon as it is scored (``--keep``); only the numbers go into ``results/training_noise.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common import progress
from siftune._common.files import write_json
from siftune._common.seeds import derive
from siftune.data.readers import read_rows
from siftune.data.render import Renderer
from siftune.data.rows import Rendered
from siftune.training.settings import TrainSettings

RESULTS = Path(__file__).resolve().parent / "results" / "training_noise.json"
SETTINGS: dict[str, TrainSettings] = {
    "1e-3": TrainSettings(learning_rate=1e-3, epochs=2, batch_size=4),
    "1e-3, mean of the last half": TrainSettings(learning_rate=1e-3, epochs=2, batch_size=4, average_last=16),
    "3e-4": TrainSettings(learning_rate=3e-4, epochs=2, batch_size=4),
    "1e-3, constant, mean of the last half": TrainSettings(learning_rate=1e-3, epochs=2, batch_size=4, average_last=16,
                                                           schedule="constant"),
}
TARGETS = ("bbh_disambiguation_qa", "bbh_hyperbaton", "bbh_temporal_sequences", "bbh_tracking_three", "mmlu_society",
           "xcopa_it", "xquad_de", "xquad_es", "mmlu_health", "svamp")


def components(values: np.ndarray) -> dict[str, float]:
    """Variance of ``values`` [draws, seeds] by its sources, unbiased, below zero set to zero: of a single training."""
    draws, seeds = values.shape
    mean = values.mean()
    by_draw, by_seed = values.mean(axis=1), values.mean(axis=0)
    rest = ((values - by_draw[:, None] - by_seed[None] + mean) ** 2).sum() / ((draws - 1) * (seeds - 1))
    return {"rows": max(0.0, float(by_draw.var(ddof=1) - rest / seeds)),
            "seed": max(0.0, float(by_seed.var(ddof=1) - rest / draws)), "rest": float(rest)}


class Trainings:
    """Trains and scores, each once.

    Args:
        data: folder with ``pool_2k.jsonl`` and ``tests``.
        keep: where scores are kept.
        targets: their names.
        test_rows: of each target.
    """

    def __init__(self, data: Path, keep: Path, targets: Sequence[str], test_rows: int):
        from siftune.models.loading import load_model

        self.keep = keep
        self.loaded = load_model("embedded")
        self.renderer = Renderer(self.loaded.tokenizer, max_length=512)
        self.pool = self._rendered(data / "pool_2k.jsonl", None)
        self.tests = {name: self._rendered(data / "tests" / f"{name}.jsonl", test_rows) for name in targets}

    def _rendered(self, path: Path, most: int | None) -> list[Rendered]:
        rows, _ = read_rows([str(path)], role="pool")
        return [self.renderer.render(list(row.messages), row.tools) for row in rows[:most]]

    def scores(self, name: str, settings: TrainSettings, rows: np.ndarray, seed: int) -> dict[str, float]:
        """Loss by target."""
        from siftune.evaluation.loss import row_losses
        from siftune.models.lora import LoraSettings, attach_lora, detach_lora
        from siftune.training.sft import train_lora

        path = self.keep / f"{name}-{rows[0]}-{rows[1]}-{seed}.json"
        if path.is_file():
            return json.loads(path.read_text())
        model = attach_lora(self.loaded.model, LoraSettings(), derive(0, "training adapter", seed))
        try:
            trained = dataclasses.replace(settings, seed=derive(0, "training", seed) % 2**31)
            train_lora(model, [self.pool[i] for i in rows], trained, self.keep / "run", pad_id=self.loaded.pad_id,
                       device=self.loaded.device, title=f"{name}, seed {seed}")
            found = {target: float(row_losses(model, some, batch_tokens=1024, title=target).mean())
                     for target, some in self.tests.items()}
        finally:
            detach_lora(model).requires_grad_(False)
        write_json(path, found)
        return found


def table(values: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """A line for each setting: means over targets of loss, its standard deviation and the parts of its variance."""
    lines = []
    for name, by_target in values.items():
        parts = [components(np.log(v)) for v in by_target.values()]
        lines.append({
            "setting": name,
            "loss": float(np.mean([v.mean() for v in by_target.values()])),
            "sd_of_log_loss": float(np.mean([np.log(v).std(ddof=1) for v in by_target.values()])),
            **{f"share_{part}": float(np.mean([p[part] for p in parts]) / np.mean([sum(p.values()) for p in parts]))
               for part in ("rows", "seed", "rest")},
            "by_target": {target: {"loss": float(v.mean()), "low": float(v.min()), "high": float(v.max())}
                          for target, v in by_target.items()},
        })
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="where finished trainings are kept")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--test-rows", type=int, default=20)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    args = parser.parse_args()
    trainings = Trainings(args.data, args.keep, TARGETS, args.test_rows)
    found: dict[str, dict[str, np.ndarray]] = {}
    with progress.quiet():
        for name in args.settings:
            cells = [[trainings.scores(name, SETTINGS[name],
                                       np.random.default_rng(derive(0, "draw", draw)).choice(
                                           len(trainings.pool), args.rows, replace=False), seed)
                      for seed in range(args.seeds)] for draw in range(args.draws)]
            found[name] = {target: np.array([[cell[target] for cell in row] for row in cells]) for target in TARGETS}
            write_json(RESULTS, {"rows": args.rows, "test_rows": args.test_rows, "draws": args.draws,
                                 "seeds": args.seeds, "settings": table(found)})
    for line in table(found):
        print(f"{line['setting']}: loss {line['loss']:.3f}, sd of its logarithm {line['sd_of_log_loss']:.3f} (rows "
              f"{line['share_rows']:.0%}, seed {line['share_seed']:.0%}, rest {line['share_rest']:.0%})")


if __name__ == "__main__":
    main()
