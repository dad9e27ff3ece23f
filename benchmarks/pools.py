"""Time and memory of reading, rendering and selecting from pools of growing size, the first time and the second.

    python benchmarks/pools.py --rows 10000 100000 [1000000] [--source POOL.jsonl] [--folder runs/pools]
                               [--methods bm25 embed fusion] [--sentences minilm]

A pool is made of the rows of a JSONL file by recombination: its rows again and again, with new ids and one word of each
text exchanged for another of the file's words, so that lengths are real and no text is there twice. `siftune inspect`
and `siftune select` then run twice each as processes of their own, each with a run folder of its own: the first time
everything is read and rendered, the second time what the folder keeps is used. Of several methods the first one reads
and renders, the others take that `--from` its folder. Rows a second are those of the whole command; beside them stands
how many were rendered a second, as its progress said last. `embed` and `fusion` (of words and embeddings) take a model
of sentence-transformers: by default one made here, the mean of the word vectors of all-MiniLM-L6-v2, which reads a
million rows in minutes where that itself takes a day on two cores. Peak memory is that of the largest process, and the
largest sum over all processes of a command of what each has to itself or shares (PSS, asked for twice a second).
Seconds mean little where the machine has other work, as the load before each command tells.
Results: `benchmarks/results/pools.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from siftune._common.files import read_json, write_json, write_lines
from siftune._common.processes import cores
from siftune.models.sentence_embedding import minilm_folder

HERE = Path(__file__).resolve().parent
TARGETS = 50


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


def changed(value: Any, words: list[str], draw: random.Random) -> Any:
    """The value with a word of each longer text exchanged."""
    if isinstance(value, str):
        parts = value.split(" ")
        if len(parts) < 3:
            return value
        parts[draw.randrange(len(parts))] = draw.choice(words)
        return " ".join(parts)
    if isinstance(value, dict):
        return {key: item if key in ("id", "role", "from") else changed(item, words, draw) for key, item in
                value.items()}
    return [changed(item, words, draw) for item in value] if isinstance(value, list) else value


def recombined(records: list[dict[str, Any]], count: int) -> Iterator[str]:
    """Lines of a pool of that many rows."""
    words = sorted({word for record in records for text in texts_of(record) for word in text.split() if word.isalpha()})
    draw = random.Random(17)
    for i in range(count):
        record = changed(records[i % len(records)], words, draw)
        yield json.dumps({**record, "id": f"row-{i}"}, ensure_ascii=False)


def word_vectors(folder: Path) -> Path:
    """A folder with a sentence model that is the mean of the word vectors of all-MiniLM-L6-v2."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    whole: Any = SentenceTransformer(str(minilm_folder()), device="cpu")
    tokenizer = whole.tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    words = whole[0].auto_model.embeddings.word_embeddings.weight.detach().numpy()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=words)], device="cpu").save(str(folder))
    return folder


def measured(arguments: list[str]) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a command.

    Raises:
        SystemExit: it failed.
    """
    start, load = time.monotonic(), os.getloadavg()[0]
    said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed below
    process = subprocess.Popen([sys.executable, "-m", "siftune", *arguments], stdout=subprocess.DEVNULL, stderr=said)
    sums, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            sums.append(sum(map(shared_out, family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    watcher.join()
    with said:
        said.seek(0)
        told = said.read()
    if status:
        raise SystemExit(f"siftune {' '.join(arguments)} failed:\n{told}")
    rendering = re.findall(r"rendering the pool: .*?([\d,]+) rows/s", told)  # its bar, where it took 20 seconds
    return {**({"rendered_per_second": int(rendering[-1].replace(",", ""))} if rendering else {}),
            "seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mb": round(usage.ru_maxrss / 1e3), "peak_mb_of_all_processes": round(max(sums) / 1e3),
            "load_before": round(load, 1)}


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        for listed in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, read(listed).split())
    return found


def shared_out(pid: int) -> int:
    """kB that a process has to itself, and its share of what it has with others."""
    return next((int(line.split()[1]) for line in read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
                 if line.startswith("Pss:")), 0)


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended, or the system tells nothing
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--source", type=Path, default=HERE.parent / "examples" / "demo" / "pool.jsonl")
    parser.add_argument("--folder", type=Path, default=Path("runs/pools"), help="for pools and run folders")
    parser.add_argument("--methods", nargs="+", choices=["bm25", "embed", "fusion"], default=["bm25"])
    parser.add_argument("--sentences", default="word vectors", help="the sentence model: minilm, a folder, or the mean "
                                                                    "of minilm's word vectors, as by default")
    parser.add_argument("--keep", action="store_true", help="leave the pools and run folders there")
    options = parser.parse_args()
    records = [json.loads(line) for line in options.source.read_text(encoding="utf-8").splitlines() if line.strip()]
    output = HERE / "results" / "pools.json"
    result: dict[str, Any] = read_json(output) if output.exists() else {"runs": []}
    result |= {"model": "embedded", "cores": cores(),
               "versions": {name: version(name) for name in ("siftune", "transformers", "tokenizers", "pyarrow")}}
    for count in options.rows:
        folder = options.folder / str(count)
        shutil.rmtree(folder, ignore_errors=True)
        pool, target = folder / "pool.jsonl", folder / "target.jsonl"
        write_lines(pool, recombined(records, count))
        write_lines(target, (json.dumps({**record, "id": f"target-{i}"}) for i, record in enumerate(records[:TARGETS])))
        how = ["--bad-rows", "drop", "--format", "mixed"]
        commands = {"inspect": ["inspect", str(pool), "--format", "mixed", "--output-dir", str(folder / "looked")]}
        first, sentences = options.methods[0], options.sentences
        if sentences == "word vectors" and set(options.methods) - {"bm25"}:
            # In a process of its own: what this one takes would count as the peak of those that it starts.
            with ProcessPoolExecutor(1, get_context("spawn")) as other:
                sentences = str(other.submit(word_vectors, folder / "sentences").result())
        own = {"bm25": [], "embed": ["--set", f"embedding_model={sentences}"],
               "fusion": ["--set", f"embedding_model={sentences}", "--set", "signals=[bm25, embed]"]}
        for method in options.methods:
            commands[f"select {method}"] = [
                "select", "--pool", str(pool), "--target", str(target), "--method", method, "--budget", "1%",
                "--overlap", "drop", *how, "--output-dir", str(folder / method), *own[method],
                *(["--from", str(folder / first)] if method != first else [])]
        found: dict[str, Any] = {"rows": count, "source": options.source.name,
                                 "pool_mb": round(pool.stat().st_size / 1e6), "sentences": options.sentences}
        for name, command in commands.items():
            for when in ("first", "second"):
                one = measured(command)
                found[f"{name}, {when}"] = {**one, "rows_per_second": round(count / one["seconds"]),
                                            "rows_per_cpu_second": round(count / one["cpu_seconds"])}
                print(count, name, when, found[f"{name}, {when}"], flush=True)
        kept = sum(path.stat().st_size for path in (folder / first / "pool").glob("*"))
        found["kept_mb"] = round(kept / 1e6)
        result["runs"] = sorted([*(run for run in result["runs"] if run["rows"] != count), found],
                                key=lambda run: run["rows"])
        write_json(output, result)
        if not options.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
