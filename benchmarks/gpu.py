"""Passes on an accelerator: tokens a second beside a plain training step, peak memory, batch sizes, errors.

    python benchmarks/gpu.py                      # the first CUDA device; --device cpu --smoke runs the logic anywhere
    python benchmarks/gpu.py --model FOLDER --dtypes float32 bfloat16 --rounds 5

Arms take turns (A, B, C, A, B, C) on the same rows in the same process; each is warmed up, and the clock is read after
the device has finished.
`plain` is a forward and a backward pass with transformers' own loss, as a training step has them; `plain-supervised-
logits` the same with logits only where a token is supervised, the strictest limit; `train` is the plain pass with
AdamW's step; `less` and `gradients` are siftune's gradient passes with and without Adam's direction, everything
included but the store; `rds` and `mads` its forward passes. bergson, where it is installed, is measured by its own
command line on the same rows: `benchmarks/peers/bergson_gradients.py`.

Results, with the card's name, driver and versions, go into `benchmarks/results/gpu-<card>.json`.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.data.readers import read_rows
from siftune.data.render import Renderer
from siftune.data.rows import Rendered
from siftune.features.forward.active_sets import ActiveNeurons
from siftune.features.forward.engine import forward_features
from siftune.features.forward.hidden import PositionWeightedMean
from siftune.features.gradients.adam import AdamDirection
from siftune.features.gradients.engine import GradientEngine
from siftune.features.gradients.features import gradient_features
from siftune.features.gradients.projections import projection
from siftune.models.batching import Batch, collate, plan_batches
from siftune.models.loading import LoadedModel, load_model
from siftune.models.lora import LoraSettings, adapter_parameters, attach_lora
from siftune.models.memory import batch_tokens
from siftune.models.supervised_logits import mean_loss_per_row, supervised_logits

HERE = Path(__file__).resolve().parent
POOL = HERE.parent / "examples" / "demo" / "pool.jsonl"
DIM, SEED = 8192, 22


class Subject:
    """What the arms work on.

    Args:
        loaded: the model.
        tokens: padded tokens of a batch.
    """

    def __init__(self, loaded: LoadedModel, tokens: int):
        self.tokens = tokens
        self.device, self.pad_id = loaded.device, loaded.pad_id
        self.model = attach_lora(loaded.model, LoraSettings(), SEED)
        generator = torch.Generator().manual_seed(SEED)
        first, second = {}, {}
        for name, parameter in adapter_parameters(self.model).items():
            if ".lora_B." in name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
            draw = torch.randn(2, *parameter.shape, generator=generator) * 1e-3
            first[name], second[name] = draw[0].to(self.device), draw[1].square().to(self.device)
        self.direction = AdamDirection(first, second, step=10)
        self.optimizer = torch.optim.AdamW(adapter_parameters(self.model).values(), lr=0.0)

    def plain(self, rows: Sequence[Rendered]) -> None:
        for batch in self._batches(rows):
            labels = batch.input_ids.masked_fill(~batch.supervised, -100)
            self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels,
                       use_cache=False).loss.backward()

    def plain_supervised_logits(self, rows: Sequence[Rendered]) -> None:
        for batch in self._batches(rows):
            with supervised_logits(self.model, batch.supervised):
                logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                                    use_cache=False).logits[0]
            mean_loss_per_row(logits, batch.input_ids, batch.supervised).sum().backward()

    def train(self, rows: Sequence[Rendered]) -> None:
        for batch in self._batches(rows):
            labels = batch.input_ids.masked_fill(~batch.supervised, -100)
            self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels,
                       use_cache=False).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def less(self, rows: Sequence[Rendered]) -> None:
        self._gradients(rows, self.direction)

    def gradients(self, rows: Sequence[Rendered]) -> None:
        self._gradients(rows, None)

    def rds(self, rows: Sequence[Rendered]) -> None:
        self._forward(rows, PositionWeightedMean())

    def mads(self, rows: Sequence[Rendered]) -> None:
        self._forward(rows, ActiveNeurons())

    def _gradients(self, rows: Sequence[Rendered], direction: AdamDirection | None) -> None:
        gradient_features(GradientEngine(self.model), rows, projection=projection("sparse-jl", DIM, SEED),
                          precondition=direction, pad_id=self.pad_id, batch_tokens=self.tokens, device=self.device)

    def _forward(self, rows: Sequence[Rendered], reader: Any) -> None:
        forward_features(self.model, rows, [reader], pad_id=self.pad_id, batch_tokens=self.tokens,
                         device=self.device)

    def _batches(self, rows: Sequence[Rendered]) -> Iterator[Batch]:
        for positions in plan_batches([len(row) for row in rows], self.tokens):
            yield collate([rows[i] for i in positions], self.pad_id, self.device)


ARMS: dict[str, Callable[[Subject, Sequence[Rendered]], None]] = {
    "plain": Subject.plain, "plain-supervised-logits": Subject.plain_supervised_logits, "train": Subject.train,
    "less": Subject.less, "gradients": Subject.gradients, "rds": Subject.rds, "mads": Subject.mads,
}


def timed(run: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Seconds and peak bytes of the device, the latter 0 where it does not tell."""
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    run()
    if is_cuda:
        torch.cuda.synchronize(device)
    return {"seconds": time.perf_counter() - start,
            "peak_bytes": float(torch.cuda.max_memory_allocated(device)) if is_cuda else 0.0}


def card(device: torch.device) -> dict[str, Any]:
    """What the numbers are of."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"name": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda,
                "multiprocessors": properties.multi_processor_count, "devices": torch.cuda.device_count()}
    return {"name": f"cpu {platform.machine()}", "threads": torch.get_num_threads()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    result: dict[str, Any] = {
        "card": card(device), "model": options.model, "smoke": options.smoke,
        "versions": {name: version(name) for name in ("siftune", "torch", "transformers", "peft")}, "dtypes": {}}
    records, _ = read_rows([str(options.rows_file)], role="pool")
    for dtype in options.dtypes:
        loaded = load_model(options.model, device=options.device, dtype=dtype)
        renderer = Renderer(loaded.tokenizer, max_length=512)
        rows = [renderer.render(list(row.messages), row.tools) for row in records[:options.rows]]
        subject = Subject(loaded, options.batch_tokens or batch_tokens(0, loaded))
        tokens = sum(map(len, rows))
        rounds: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
        for arm in options.arms:
            ARMS[arm](subject, rows[:4] if device.type == "cpu" else rows)  # warmed up
        for number in range(options.rounds):
            for arm in options.arms:
                found = timed(partial(ARMS[arm], subject, rows), device)
                subject.model.zero_grad()
                rounds[arm].append(found)
                log(f"{dtype}, round {number + 1}, {arm}: {tokens / found['seconds']:,.0f} tokens/s")
        result["dtypes"][dtype] = {
            "rows": len(rows), "tokens": tokens, "batch_tokens": subject.tokens,
            "arms": {arm: {"tokens_per_second": tokens / median(one["seconds"] for one in some),
                           "peak_bytes": max(one["peak_bytes"] for one in some), "rounds": some}
                     for arm, some in rounds.items()}}
    return result


def table(result: dict[str, Any]) -> str:
    lines = [f"{result['card']['name']}, {result['model']}"]
    for dtype, found in result["dtypes"].items():
        limit = found["arms"].get("plain-supervised-logits", {}).get("tokens_per_second")
        lines += [f"{dtype:10} {arm:24} {one['tokens_per_second']:>12,.0f} tokens/s"
                  + (f"  {one['tokens_per_second'] / limit:6.2f} of the strictest pass" if limit else "")
                  + f"  peak {one['peak_bytes'] / 2**20:,.0f} MiB" for arm, one in found["arms"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--rows-file", type=Path, default=POOL)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=0, help="0 takes what the memory holds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--smoke", action="store_true", help="8 rows, one round, float32; nothing is kept")
    options = parser.parse_args()
    if options.smoke:
        options.rows, options.rounds, options.dtypes = 8, 1, ["float32"]
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --device cpu --smoke runs the logic")
    result = measure(options)
    if not options.smoke:
        name = re.sub(r"[^a-z0-9]+", "-", result["card"]["name"].lower()).strip("-")
        write_json(options.output or HERE / "results" / f"gpu-{name}.json", result)
    print(table(result))


if __name__ == "__main__":
    main()
