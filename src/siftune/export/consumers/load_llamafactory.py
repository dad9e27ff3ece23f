"""What LLaMA-Factory's loader makes of exported files: ``python load_llamafactory.py JOB.json ...``, see jobs.py."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs import run  # pyright: ignore[reportMissingImports]  # beside this script, where Python looks first


def load(job: dict[str, Any]) -> list[dict[str, Any]]:
    import yaml
    _without_sound()
    from llamafactory.data import (  # pyright: ignore[reportMissingImports]
        SFTDataCollatorWith4DAttentionMask,
        get_dataset,
        get_template_and_fix_tokenizer,
    )
    from llamafactory.hparams import get_train_args  # pyright: ignore[reportMissingImports]
    from llamafactory.model import load_tokenizer  # pyright: ignore[reportMissingImports]

    settings = Path(job["settings"])
    written = yaml.safe_load(settings.read_text(encoding="utf-8"))
    for name in ("dataset_dir", "tokenized_path"):
        if name in written:
            written[name] = str(settings.parent / written[name])
    written |= {"model_name_or_path": job["model"], "output_dir": job["cache"], "cache_dir": job["cache"],
                "do_train": True, "finetuning_type": "full", "use_cpu": True, "report_to": "none",
                "overwrite_cache": True, "trust_remote_code": False}
    model, data, training, _, _ = get_train_args(written)
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    rows = get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"]
    collate = SFTDataCollatorWith4DAttentionMask(template=template, **loaded)
    made = []
    for row in rows:
        batch = collate([dict(row)])
        made.append({name: batch[name][0].tolist() for name in ("input_ids", "labels")})
    return made


def _without_sound() -> None:
    """It imports torchaudio, which rows of text need not: where there is none, an empty module takes its place."""
    if importlib.util.find_spec("torchaudio") is None:
        empty = types.ModuleType("torchaudio")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = empty


if __name__ == "__main__":
    run(load, lambda: {name: version(name) for name in ("llamafactory", "transformers", "datasets")})
