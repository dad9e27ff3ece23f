"""What TRL's SFTTrainer makes of exported files: ``python load_trl.py JOB.json ...``, see jobs.py."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs import run  # pyright: ignore[reportMissingImports]  # beside this script, where Python looks first

SETTINGS = ("assistant_only_loss", "completion_only_loss", "max_length")


def load(job: dict[str, Any]) -> list[dict[str, Any]]:
    import yaml
    from datasets import load_dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    written = yaml.safe_load(Path(job["settings"]).read_text(encoding="utf-8"))
    (one,) = written["datasets"]
    file = str(Path(job["settings"]).parent / one["data_files"])
    rows = load_dataset(one["path"], data_files=file, split="train", cache_dir=job["cache"])
    config = SFTConfig(job["cache"], use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=1,
                       **{name: written[name] for name in SETTINGS if name in written})
    trainer = SFTTrainer(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(job["model"])), config,
                         train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(job["model"]))
    next(iter(trainer.get_train_dataloader()))  # its own way from rows to a batch runs at all
    made = []
    prepared: Any = trainer.train_dataset
    for row in prepared:
        batch = trainer.data_collator([{name: row[name] for name in ("input_ids", "labels")}])
        made.append({"id": row["id"], **{name: batch[name][0].tolist() for name in ("input_ids", "labels")}})
    return made


if __name__ == "__main__":
    run(load, lambda: {name: version(name) for name in ("trl", "transformers", "datasets")})
