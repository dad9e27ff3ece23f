"""What Axolotl's loader makes of exported files: ``python load_axolotl.py JOB.json ...``, see jobs.py."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs import run  # pyright: ignore[reportMissingImports]  # beside this script, where Python looks first

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"


def load(job: dict[str, Any]) -> list[dict[str, Any]]:
    import yaml
    from axolotl.cli.config import load_cfg  # pyright: ignore[reportMissingImports]
    from axolotl.common.datasets import load_datasets  # pyright: ignore[reportMissingImports]

    settings, cache = Path(job["settings"]), Path(job["cache"])
    written = yaml.safe_load(settings.read_text(encoding="utf-8"))
    for one in written["datasets"]:
        one["path"] = str(settings.parent / one["path"])
    written |= {"base_model": job["model"], "output_dir": str(cache / "out"), "micro_batch_size": 1, "num_epochs": 1,
                "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "optimizer": "adamw_torch",
                "dataset_prepared_path": str(cache / "prepared"), "shuffle_merged_datasets": False, "use_tensorboard":
                False, "dataset_num_proc": 1}
    config = cache / "config.yaml"
    config.write_text(yaml.safe_dump(written), encoding="utf-8")
    rows = load_datasets(cfg=load_cfg(str(config))).train_dataset
    return [{name: list(map(int, row[name])) for name in ("input_ids", "labels")} for row in rows]


if __name__ == "__main__":
    run(load, lambda: {name: version(name) for name in ("axolotl", "transformers", "datasets")})
