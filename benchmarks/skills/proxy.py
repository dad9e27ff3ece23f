"""A quick proxy, before any training: how many of the first rows that a signal finds are of families that teach it.

    python benchmarks/skills/proxy.py --data FOLDER [--signals bm25 embed ...] [--scores NAME=FOLDER ...]

For each of the 20 targets, its rows take turns (round-robin) until 100 rows of `pool_2k.jsonl` are chosen; what counts
is the share of them whose family is one of the `direct` ones of `skills.json`: a person's guess, made before any
selection, so a hint and not the measure. Signals are

* `bm25`: siftune's, which looks for the targets' prompts; `bm25-rows`: plain BM25 (k1 1.2, b 0.75) of the words of
  prompt and completion, as the shares in `skills.json` were made;
* `embed` (MiniLM), `rds` (mean hidden states of the embedded model, as RDS+ takes them) and any other name of which
  `siftune.encode` makes vectors;
* `SIGNAL:centred`: the same with the pool's mean taken out of all vectors;
* `A+B`: a fusion, each target row's similarities as z-scores over the pool, added up.

Scores of anything else come as `--scores NAME=FOLDER` with a `TARGET.npy` for each target, [target rows, pool rows].

Intervals are 95% over targets (Student's t), of the difference from the share of such families in the pool. Only these
numbers are kept: `results/proxy.json`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from siftune import api
from siftune._common.files import write_json
from siftune._common.progress import log
from siftune.selectors import Problem, select

RESULTS = Path(__file__).resolve().parent / "results" / "proxy.json"
HARD = ("bbh_disambiguation_qa", "bbh_hyperbaton", "bbh_temporal_sequences", "bbh_tracking_three", "mmlu_society",
        "xcopa_it", "xquad_de", "xquad_es")
"""Where BM25's first rows hold next to no more of the families than the pool does."""
SIGNALS = ("bm25-rows", "bm25", "embed", "embed:centred", "bm25-rows+embed:centred")


class Signals:
    """Similarities of the targets' rows to the pool, each signal computed once for all targets.

    Args:
        data: the folder with ``pool_2k.jsonl`` and ``targets``.
        targets: their names.
        keep: where features are kept.
    """

    def __init__(self, data: Path, targets: Sequence[str], keep: Path):
        self.pool, self.keep = str(data / "pool_2k.jsonl"), keep
        self.files = [str(data / "targets" / f"{name}.jsonl") for name in targets]
        ends = np.cumsum([len(Path(file).read_text().splitlines()) for file in self.files])
        self.rows = dict(zip(targets, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
        self._known: dict[str, np.ndarray] = {}

    def similarities(self, signal: str, target: str) -> np.ndarray:
        """float64 [target rows, pool rows]."""
        parts = [self._all(one)[self.rows[target]] for one in signal.split("+")]
        return parts[0] if len(parts) == 1 else np.sum([standardised(S) for S in parts], axis=0)

    def _all(self, signal: str) -> np.ndarray:
        """float64 [rows of all targets, pool rows]."""
        if signal not in self._known:
            self._known[signal] = self._computed(signal)
        return self._known[signal]

    def _computed(self, signal: str) -> np.ndarray:
        name, _, form = signal.partition(":")
        if form not in ("", "centred"):
            raise SystemExit(f"{signal}: write NAME, NAME:centred or a sum of these")
        if name == "bm25-rows":
            return bm25_of_rows(words([self.pool]), words(self.files))
        if name == "bm25":  # an index of the pool and no vectors
            found = api.encode(self.pool, representation=name, target=self.files, max_length=512)
            return np.asarray(found, dtype=np.float64).T
        pool, queries = (self._vectors(name, rows, what)
                         for rows, what in (([self.pool], "pool"), (self.files, "targets")))
        if form:
            mean = pool.mean(axis=0)
            pool, queries = unit(pool - mean), unit(queries - mean)
        return queries @ pool.T

    def _vectors(self, name: str, files: list[str], what: str) -> np.ndarray:
        found = api.encode(files, representation=name, max_length=512, output_dir=str(self.keep / what))
        if found.kind != "vectors":
            raise SystemExit(f"{name} gives {found.kind}, not vectors: give its scores with --scores")
        return unit(np.asarray(found, dtype=np.float64))


def words(files: Sequence[str]) -> list[list[str]]:
    """Of prompt and completion of every row."""
    rows = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    return [re.findall(r"\w+", f"{row['prompt']} {row['completion']}".lower()) for row in rows]


def bm25_of_rows(pool: Sequence[Sequence[str]], queries: Sequence[Sequence[str]], k1: float = 1.2,
                 b: float = 0.75) -> np.ndarray:
    """float64 [queries, pool]: Robertson and Zaragoza's BM25 with the logarithm of 1 + (N - n + 0.5) / (n + 0.5); each
    word of a query counts once."""
    places = {word: i for i, word in enumerate(dict.fromkeys(word for row in pool for word in row))}
    counts = np.zeros((len(pool), len(places)))
    for i, row in enumerate(pool):
        for word in row:
            counts[i, places[word]] += 1
    lengths, rows = counts.sum(axis=1, keepdims=True), (counts > 0).sum(axis=0)
    rarity = np.log(1 + (len(pool) - rows + 0.5) / (rows + 0.5))
    weights = rarity * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
    return np.array([weights[:, sorted({places[w] for w in query if w in places})].sum(axis=1) for query in queries])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def standardised(S: np.ndarray) -> np.ndarray:
    """Each target row's similarities with mean 0 and deviation 1 over the pool; 0 where all are alike."""
    spread = S.std(axis=1, keepdims=True)
    return (S - S.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def first_rows(S: np.ndarray, rows: int) -> np.ndarray:
    """int64 [rows]: what target rows that take turns choose."""
    return select(Problem.from_similarities(S), rows, "round-robin").indices


def share(S: np.ndarray, families: Sequence[str], direct: Sequence[str], rows: int) -> float:
    """Of the first rows, those of a direct family."""
    return float(np.mean([families[i] in direct for i in first_rows(S, rows).tolist()]))


def summary(shares: Mapping[str, float], pool: Mapping[str, float]) -> dict[str, Any]:
    """Mean share over targets, and its difference from the pool's with a 95% interval over targets."""
    names = list(shares)
    gains = np.array([shares[name] - pool[name] for name in names])
    half = float(t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains)))
    mean = float(gains.mean())
    return {"mean": float(np.mean(list(shares.values()))), "above_pool": mean, "low": mean - half, "high": mean + half,
            "targets": len(names)}


def given_scores(texts: Sequence[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in texts]
    if any(not name or not folder for name, _, folder in pairs):
        raise SystemExit("--scores: write NAME=FOLDER")
    return {name: Path(folder) for name, _, folder in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool_2k.jsonl, targets and skills.json")
    parser.add_argument("--signals", nargs="*", default=list(SIGNALS))
    parser.add_argument("--scores", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--rows", type=int, default=100, help="how many first rows are looked at")
    parser.add_argument("--keep", type=Path, default=Path("runs/skills-proxy"), help="where features are kept")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    skills = json.loads((args.data / "skills.json").read_text())
    families = [json.loads(line)["family"] for line in (args.data / "pool_2k.jsonl").read_text().splitlines()]
    pool = {name: float(np.mean([family in skill["direct"] for family in families])) for name, skill in skills.items()}
    signals, files = Signals(args.data, list(skills), args.keep), given_scores(args.scores)
    known = json.loads(args.output.read_text()) if args.output.is_file() else {}
    found: dict[str, Any] = dict(known.get("signals", {}))
    for signal in (*args.signals, *files):
        shares: dict[str, float] = {}
        for name, skill in skills.items():
            S = np.load(files[signal] / f"{name}.npy", allow_pickle=False) if signal in files else \
                signals.similarities(signal, name)
            if S.shape[1] != len(families):
                raise SystemExit(f"{signal}, {name}: {S.shape[1]} scores for {len(families)} rows of the pool")
            shares[name] = share(S, families, skill["direct"], args.rows)
        found[signal] = {"all": summary(shares, pool), "hard": summary({n: shares[n] for n in HARD}, pool),
                         "shares": shares}
        told = found[signal]
        log(f"{signal}: {told['all']['mean']:.1%} of all 20 targets (pool {np.mean(list(pool.values())):.1%}), "
            f"{told['hard']['mean']:.1%} of the 8 hard ones")
        write_json(args.output, {"rows": args.rows, "hard": list(HARD), "pool": pool, "signals": found})


if __name__ == "__main__":
    main()
