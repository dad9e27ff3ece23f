"""Write the tables of docs/gradients.md and docs/selectors.md from the recorded results.

    python benchmarks/write_tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from siftune.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_MARK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def speed() -> str:
    told = read_json(RESULTS / "gradients-speed.json")
    arms = {name: arm["rounds"] for name, arm in told["arms"].items() if arm["rounds"]}
    rows = []
    for name, rounds in arms.items():
        views = {name: [(r["seconds"], r["cpu_seconds"]) for r in rounds]}
        if "projection_cpu_seconds" in rounds[0]:
            views[f"{name}, projection not counted"] = [
                (r["seconds"] - r["projection_seconds"], r["cpu_seconds"] - r["projection_cpu_seconds"])
                for r in rounds]
        for view, seconds in views.items():
            limit = arms["plain-r64" if "r64" in name else "plain"]
            share = median(p["cpu_seconds"] / cpu for p, (_, cpu) in zip(limit, seconds, strict=False))
            rows.append([view, f"{median(told['tokens'] / wall for wall, _ in seconds):.0f}",
                         f"{median(told['tokens'] / cpu for _, cpu in seconds):.0f}", f"{share:.2f}",
                         f"{max(r['peak_mib'] for r in rounds) / 1024:.1f}", str(len(rounds))])
    return markdown(["way", "tokens/s (wall)", "tokens per CPU second", "of a plain pass", "peak GiB", "rounds"], rows)


def accuracy(name: str) -> Callable[[], str]:
    def table() -> str:
        told = read_json(RESULTS / f"gradients-accuracy-{name}.json")
        rows = []
        for kind, found in told["kinds"].items():
            seconds = found.get("projection_seconds_per_row")
            rows.append([kind, f"{found['rms_error']:.4f}", f"{found['largest_error']:.3f}",
                         f"{found['overlap_of_selection']:.2f}", f"{found['overlap_by_subtask']:.2f}",
                         f"{found['overlap_by_target']:.2f}", f"{found['spearman']:.3f}",
                         f"{found['bytes_per_row']:,}", "" if seconds is None else f"{1000 * seconds:.1f}"])
        return markdown(["kind", "rms error", "largest", "top 5%: LESS score", "by subtask", "by single target",
                         "rank correlation", "bytes a row", "ms a row"], rows)
    return table


def memory() -> str:
    told = read_json(RESULTS / "memory.json")
    return markdown(["rows", "plan said, GiB", "peak of select, GiB", "plan / peak"], [
        [f"{run['rows']:,}", f"{run['planned_gib']:.2f}", f"{run['peak_gib']:.2f}", f"{run['planned_of_peak']:.2f}"]
        for run in told["runs"]])


def submodular() -> str:
    told = read_json(RESULTS / "selectors-submodular.json")["sections"]
    rows = []
    for section, found in told.items():
        for arm, one in found["arms"].items():
            if "failed" in one:
                rows.append([section, arm, one["failed"], "", "", ""])
                continue
            rows.append([section, arm, f"{one['seconds']:.2f}", f"{one['processor_seconds']:.2f}",
                         f"{one['peak_bytes'] / 2**30:.2f}", f"{one['objective']:.2f}"])
    return markdown(["case", "by", "seconds", "CPU seconds", "peak GiB", "objective"], rows)


def streaming() -> str:
    told = read_json(RESULTS / "selectors.json")
    return markdown(["what", "rows chosen", "seconds", "CPU seconds", "peak MB"], [
        [name, f"{one['rows']:,}", f"{one['seconds']:.1f}", f"{one['cpu_seconds']:.1f}", f"{one['peak_mb']:,}"]
        for name, one in told.items()])


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed, "accuracy-lora-8": accuracy("lora-8"), "accuracy-lora-64": accuracy("lora-64"),
    "accuracy-full": accuracy("full"), "memory": memory, "submodular": submodular, "streaming": streaming,
}


def main() -> None:
    def replaced(match: re.Match[str]) -> str:
        try:
            return f"{match[1]}{TABLES[match['name']]()}{match[3]}"
        except FileNotFoundError:  # not recorded: the table stays as it is
            return match[0]

    for page in ("gradients.md", "selectors.md"):
        path = ROOT / "docs" / page
        write_text(path, _MARK.sub(replaced, path.read_text()))


if __name__ == "__main__":
    main()
