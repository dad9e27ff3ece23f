"""Per-example gradients of given rows by bergson (https://pypi.org/project/bergson), in an environment of its own.

    python benchmarks/peers/bergson_gradients.py --rows rows.json --model folder [--adapter folder] [--threads 1]

Runs inside bergson's environment, without siftune. The rows come as token ids and masks, and become a pre-tokenised
data set with labels. What is timed is ``collect_gradients`` as ``bergson build`` calls it: batches, hooks, projection
and the index on disk; not loading, not tokenising. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measurement import measured  # pyright: ignore[reportMissingImports]


def main() -> None:
    parser = argparse.ArgumentParser(description="Per-example gradients of given rows by bergson.")
    parser.add_argument("--rows", type=Path, required=True, help="JSON: {warm_up, rows} of {ids, mask}")
    parser.add_argument("--model", required=True, help="a folder that save_pretrained wrote")
    parser.add_argument("--adapter", help="a folder with a PEFT adapter of that model")
    parser.add_argument("--projection-dim", type=int, default=16,
                        help="side of each module's projected gradient; 16 as in `bergson trackstar`")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    from importlib.metadata import version

    from bergson.config import IndexConfig
    from bergson.utils.worker_utils import create_processor, setup_model_and_peft
    from datasets import Dataset

    rows = json.loads(arguments.rows.read_text())
    with tempfile.TemporaryDirectory() as folder:
        def config(name: str) -> Any:
            made = IndexConfig(run_path=str(Path(folder) / name), model=arguments.adapter or arguments.model,
                               tokenizer=arguments.model, projection_dim=arguments.projection_dim)
            made.partial_run_path.mkdir(parents=True)
            return made

        model, target_modules = setup_model_and_peft(config("model"))

        def collect(name: str) -> dict[str, Any]:
            from bergson.collection import collect_gradients
            from bergson.data import allocate_batches

            cfg = config(name)
            data = Dataset.from_list([
                {"input_ids": row["ids"], "length": len(row["ids"]),
                 "labels": [i if kept else -100 for i, kept in zip(row["ids"], row["mask"], strict=True)]}
                for row in rows[name]
            ])
            processor = create_processor(model, cfg, target_modules)

            def work() -> dict[str, Any]:
                batches = allocate_batches(data["length"][:], cfg.token_batch_size)
                collect_gradients(model, data, processor, cfg, batches=batches, target_modules=target_modules)
                return {"feature_bytes": (cfg.partial_run_path / "gradients.bin").stat().st_size // len(data)}

            result = measured(work)
            losses = Dataset.load_from_disk(str(cfg.partial_run_path / "data.hf"))["loss"]
            return {**result, "loss": sum(losses)}  # a row's loss is the sum over its supervised tokens

        collect("warm_up")
        result = collect("rows")
    result["versions"] = {name: version(name) for name in ("bergson", "torch", "transformers")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
