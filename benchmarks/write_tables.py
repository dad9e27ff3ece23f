"""Write the tables of eight pages of docs (`main` names them) from the recorded results.

    python benchmarks/write_tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from siftune._common.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_MARK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def speed(name: str = "gradients-speed") -> str:
    told = read_json(RESULTS / f"{name}.json")
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


def forward() -> str:
    told = read_json(RESULTS / "forward.json")["readings"]
    return markdown(["read in one pass", "tokens per CPU second", "of a plain pass with the loss", "rounds"], [
        [arm, f"{told['tokens_per_cpu_second'][arm]:.0f}", f"{share:.2f}", str(len(told["cpu_seconds"][arm]))]
        for arm, share in told["relative_to_plain"].items()])


def sparse_utility() -> str:
    budgets = read_json(RESULTS / "utility.json")["sparse"]["budgets"]
    arms = [arm for arm, one in next(iter(budgets.values())).items() if isinstance(one, dict)]
    rows = [[arm, f"{next(iter(budgets.values()))[arm]['share_of_pairs']:.1%}",
             *(f"{one[arm]['value_against_dense']:.3f}" for one in budgets.values())] for arm in arms]
    rows.append(["random subsets (mean of 200)", "", *(f"{one['random']:.3f}" for one in budgets.values())])
    return markdown(["pairs nominated by", "share of all pairs", *(f"budget {b}" for b in budgets)], rows)


def stages() -> str:
    told = read_json(RESULTS / "utility.json")["stages"]
    task = told["targets"]
    rows = [[f"task-specific: share of picks from the targets' families ({task['share_of_pool']:.0%} of the pool)",
             f"{task['facility-location']['share']:.1%}", f"flqmi: {task['flqmi']['share']:.1%}"]]
    for one in told["existing"]:
        plain, continual = one["facility-location"], one["flcg"]
        rows.append([f"continual, known: {', '.join(one['known_families'])}: share of picks from these",
                     f"{plain['share']:.1%}", f"flcg: {continual['share']:.1%}"])
        rows.append(["the same: how much the known rows help the picks already (mean largest utility)",
                     f"{plain['mean_largest_utility_of_known']:.3f}",
                     f"flcg: {continual['mean_largest_utility_of_known']:.3f}"])
    return markdown(["stage", "plain facility location", "the stage's selector"], rows)


def _named(name: str) -> str:
    """`delift@task` as "`delift` task"."""
    method, _, variant = name.partition("@")
    return f"`{method}` {variant}".rstrip()


def methods() -> str:
    told = read_json(RESULTS / "methods.json")["methods"]
    wanted = ("family_relationships", "word_sequence_reversal")
    rows = []
    for name, one in told.items():
        inside = sum(one["families"].get(family, 0) for family in wanted)
        shown = _named(name) + (f", after {_named(one['after'])}" if one.get("after") else "")
        rows.append([shown, f"{one['seconds']:.0f}",
                     f"{one['cpu_seconds']:.0f}", f"{one['store_bytes'] / 2**20:.1f}", f"{inside} of {one['rows']}",
                     str(len(one["families"]))])
    return markdown(["method", "seconds", "CPU seconds", "store, MiB", "picks from the targets' families",
                     "families"], rows)


def _gain(one: Mapping[str, float]) -> str:
    return f"{one['mean']:+.2f} ({one['worse_by_a_point']:.1%})"


def choice_by_rows() -> str:
    """Gain over random rows and share of cases worse by a point, by the number of validation rows."""
    recorded = read_json(RESULTS / "choice-rules.json")
    by_model, by_task, plain = recorded["held_out"]["model"], recorded["held_out"]["task"], recorded["plain"]
    rules = {
        "**shipped**, judged on a model left out": by_model["shipped"],
        "**shipped**, judged on a task left out": by_task["shipped"],
        "the same with `caution=1`, task left out": by_task["shipped, caution 1"],
        "the same without the untuned model, task left out": by_task["halving, loss"],
        "plain: best of five, one training each": plain["best of five"],
        "plain: best of four (no untuned model)": plain["best of four"],
        "plain: best of five where it leads by a standard error":
            plain["best of five where it leads by a standard error"],
        "plain: best of four where it leads by a standard error":
            plain["best of four where it leads by a standard error"],
    }
    rows = list(by_model["shipped"])
    return markdown(["rule", *("no noise" if n == "all" else f"{n} rows" for n in rows)],
                    [[name, *(_gain(one[n]) for n in rows)] for name, one in rules.items()])


def published_fixed() -> str:
    """Fixed methods and plain choices on the published cells, without noise."""
    recorded = read_json(RESULTS / "choice-rules.json")["as_published"]
    names = {"best of four": "the best of random rows and these three, by one training each",
             "best of five": "the same with the untuned model among them",
             "oracle of the four": "an oracle among the four, which sees the answer"}
    wanted = ("always LESS, round-robin", "always RDS+", "always sentence embeddings",
              "lowest query loss on the selection targets", "best of four", "best of five", "oracle of the four")
    return markdown(["rule", "mean gain", "better than random", "worse", "worse by more than a point"], [
        [names.get(name, name), f"{one['mean']:+.2f}", f"{one['better']:.0%}", f"{one['worse']:.0%}",
         f"{one['worse_by_a_point']:.0%}"] for name in wanted for one in (recorded[name],)])


def skills_random() -> str:
    """What trainings on random rows do on the tasks of benchmarks/skills, beside the untuned model."""
    recorded = read_json(RESULTS.parent / "skills" / "results" / "judged.json")
    rows = []
    for target, told in recorded["by the task's metric"]["targets"].items():
        loss = recorded["by the loss"]["targets"][target]
        cells = [f"{-one['untuned'] if one is loss else one['untuned']:.3f}" for one in (told, loss)]
        spread = [f"{abs(mean(one['random'])):.3f} (sd {stdev(one['random']):.3f})" for one in (told, loss)]
        has_metric = told["metric"] != "loss"
        rows.append([f"`{target}`", told["metric"] if has_metric else "", cells[0] if has_metric else "",
                     spread[0] if has_metric else "", cells[1], spread[1], str(len(loss["random"]))])
    return markdown(["target", "metric", "untuned", "random rows", "loss, untuned", "loss, random rows", "trainings"],
                    rows)


def _between(one: Mapping[str, Any], form: str = "+.1f") -> str:
    """A mean and its interval."""
    return f"{one['mean']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"


def skills_arms() -> str:
    """What each arm gains over random rows on the tasks of benchmarks/skills, by metric and by loss."""
    recorded = read_json(RESULTS.parent / "skills" / "results" / "judged.json")
    by_metric, by_loss = (recorded[name]["arms"] for name in ("by the task's metric", "by the loss"))
    rows = []
    for arm in sorted(by_loss, key=lambda name: -by_loss[name]["mean"]):
        one, other = by_metric[arm], by_loss[arm]
        rows.append([f"`{arm}`", *(cell for told in (one, other) for cell in (
            _between(told), f"{told['better']} / {told['worse']} of {told['count']}"))])
    return markdown(["arm", "points of the task's metric", "better / worse beyond chance", "points of the loss",
                     "better / worse beyond chance"], rows)


def skills_by_target() -> str:
    """The gains of each arm on each task, by loss."""
    recorded = read_json(RESULTS.parent / "skills" / "results" / "judged.json")["by the loss"]
    arms = sorted(recorded["arms"], key=lambda name: -recorded["arms"][name]["mean"])
    return markdown(["target", *(f"`{arm}`" for arm in arms)], [
        [f"`{target}`", *(f"{one['gain']:+.0f} [{one['low']:+.0f}, {one['high']:+.0f}]"
                          for arm in arms for one in (recorded["arms"][arm]["targets"][target],))]
        for target in recorded["targets"]])


def fixed_methods() -> str:
    """Published gains of fixed methods with their intervals, and what they cost."""
    recorded = read_json(RESULTS / "fixed-methods.json")
    return markdown(["method", "over random rows", "better / worse", "over LESS with round-robin"], [
        [name, _between(one["over_random"], "+.2f"), f"{one['better']:.0%} / {one['worse']:.0%}",
         "" if name == "LESS (RR)" else _between(one["over_less"], "+.2f")]
        for name, one in recorded["methods"].items()])


def skills_choosing() -> str:
    """What choosing among the arms would have gained there, by the number of rows to choose by, beside fixed arms."""
    recorded = read_json(RESULTS.parent / "skills" / "results" / "judged.json")
    rows = []
    for name in ("by the task's metric", "by the loss"):
        told = recorded[name]["choosing"]
        some = next(iter(told.values()), {"regret of": {}})
        fixed = [(f"always `{arm}`", {**recorded[name]["arms"][arm], "regret": regret})
                 for arm, regret in some["regret of"].items()]
        rows += [[f"{rule}, {name}", _between(one), f"{one['better']} / {one['worse']} of {one['count']}",
                  f"{one['regret']:.1f}"]
                 for rule, one in [*((f"`choose` on {n} rows", one) for n, one in told.items()), *fixed]]
    return markdown(["rule", "mean gain over random rows", "better / worse beyond chance", "mean regret"], rows)


def _share(one: Mapping[str, Any]) -> str:
    return f"{one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def two_stages() -> str:
    """What a cheap first stage keeps of the exact selection of centred LESS."""
    recorded = read_json(RESULTS / "two-stages.json")["two_stage"]["centred"]
    keeps = [keep for keep in next(iter(recorded.values())) if keep != "4"]
    return markdown(["first stage", *(f"keeps {keep} budgets" for keep in keeps)], [
        [f"`{first}`", *(_share(one[keep]["recall"]) for keep in keeps)] for first, one in recorded.items()] + [
        ["rows at random", *(f"{next(iter(recorded.values()))[keep]['by_chance']['mean']:.2f}" for keep in keeps)]])


def two_stages_by_gradients() -> str:
    """What LESS at its last checkpoint keeps of the exact selection, and the passes that both stages take of LESS's."""
    recorded = read_json(RESULTS / "two-stages-by-gradients.json")["two_stage"]["paper"]
    checkpoints, rows = 4, []
    for first, one in recorded.items():
        before, parts = 1 / checkpoints if first == "less" else 0, [one[keep] for keep in ("2", "4", "8")]
        rows.append([f"`{first}`", *(f"{_share(part['recall'])}, {before + part['share_of_tokens']['mean']:.0%}"
                                     for part in parts)])
    chance = next(iter(recorded.values()))
    rows.append(["rows at random", *(f"{chance[keep]['by_chance']['mean']:.2f}, {chance[keep]['by_chance']['mean']:.0%}"
                                     for keep in ("2", "4", "8"))])
    return markdown(["first stage", *(f"keeps {keep} budgets, passes" for keep in (2, 4, 8))], rows)


def gradient_forms() -> str:
    """What projections, centring and momentum change."""
    recorded = read_json(RESULTS / "signal-forms.json")
    kept = read_json(RESULTS / "two-stages.json")["forms"]
    compared = {**{f"projected to {int(dim):,}, of exact": one for dim, one in recorded["projected"].items()},
                **{name.replace(" / ", ", of "): one for name, one in recorded["forms"].items()},
                **{f"{name.replace(' / ', ', of ')} (2,000 rows)": one for name, one in kept.items()}}
    return markdown(["form", "top 5% of single target rows", "top 5% of the score", "selection"], [
        [name, *(_share(one[part]) if part in one else "" for part in ("single_rows", "score", "selection"))]
        for name, one in compared.items()])


def choice_parts() -> str:
    """What each part of the rule adds, tasks left out."""
    recorded = read_json(RESULTS / "choice-rules.json")["held_out"]["task"]
    rules = ("one training each", "one training each, untuned", "one training each, untuned, loss",
             "one training each, untuned, Thompson's draw", "two trainings each, untuned",
             "a training at 500 rows only, untuned, loss", "all rounds", "all rounds, loss", "all rounds, untuned",
             "all rounds, untuned, loss", "all rounds, untuned, loss, eight arms",
             "all rounds, untuned, loss, every row drawn", "halving, loss", "shipped", "shipped, no caution",
             "shipped, constants chosen on the training folds")
    return markdown(["rule", "trained rows", "25 rows", "100 rows", "no noise"], [
        [name, f"{recorded[name]['100']['cost']:.2f}",
         *(_gain(recorded[name][n]) if n in recorded[name] else "" for n in ("25", "100", "all"))] for name in rules])


def _families() -> dict[str, dict[str, Any]]:
    return read_json(RESULTS / "model_families.json")["families"]


def _error(one: Mapping[str, Any], key: str, failed: str) -> str:
    return f"{one[key]:.0e}" if key in one else "refused" if failed in one else ""


def families_right() -> str:
    """Families whose gradients were compared, each with what was found."""
    rows = [[f"`{name}`", one["class"], one["kind"], f"{one['parameters']:,}",
             f"{one['adapted_layers']} of {one['layers']}" + (f" ({', '.join(one['targets'])})" if "targets" in one
                                                              else ""),
             _error(one, "error", "failed"), _error(one, "full_error", "full_failed"),
             "yes" if not one["hidden"] else "no", "yes" if not one["activations"] else "no"]
            for name, one in _families().items() if "class" in one]
    return markdown(["family", "class", "kind", "parameters", "layers adapted", "LoRA", "own weights", "RDS+",
                     "MADS, NAG"], rows)


def families_refused() -> str:
    """Families that are refused, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, one in _families().items():
        if "refused" in one:
            told = re.sub(r"^\S+ (?=lets|cannot|is an)", "", one["refused"]).replace(name, "").strip()
            reasons.setdefault(told, []).append(f"`{name}`")
    return markdown(["a model of this family", "families"], [[told, ", ".join(names)]
                                                             for told, names in reasons.items()])


def families_left() -> str:
    """Families of which no tiny model could be made, or that are no language models."""
    rows = [[f"`{name}`", one.get("not_run") or one["not_made"].replace("|", "/")[:140]]
            for name, one in _families().items() if "not_run" in one or "not_made" in one]
    return markdown(["family", "why"], rows)


TRAINERS = {"trl": "TRL", "axolotl": "Axolotl", "llamafactory": "LLaMA-Factory"}


def exports() -> str:
    """One line for all templates whose rows are all as scored, one for each other."""
    told = read_json(RESULTS / "exports.json")
    rows = []
    for trainer, title in TRAINERS.items():
        families = told[trainer]["families"]
        for form in ("tokens", "messages"):
            found = {name: forms[form] for name, forms in families.items() if form in forms}
            whole = [name for name, one in found.items() if one["identical"] == one["compared"] and not one["refused"]]
            if whole:
                rows.append([title, form, ", ".join(whole), _of(found[name] for name in whole), "", ""])
            for name in (name for name in found if name not in whole):
                one = found[name]
                rows.append([title, form, name, _of([one]), str(sum(map(len, one["refused"].values())) or ""),
                             _differences(one["differences"])])
    return markdown(["trainer", "form", "templates", "rows as scored", "refused", "what differs first (rows)"], rows)


def _of(found: Iterable[Mapping[str, Any]]) -> str:
    every = list(found)
    return f"{sum(one['identical'] for one in every):,} of {sum(one['compared'] for one in every):,}"


def _differences(found: Mapping[str, Sequence[str]]) -> str:
    most = sorted(found.items(), key=lambda item: -len(item[1]))
    shown = [f"{_shorter(what)} ({len(ids)})" for what, ids in most[:2]]
    rest = sum(len(ids) for _, ids in most[2:])
    return "; ".join([*shown, *([f"others ({rest})"] if rest else [])])


def _shorter(what: str) -> str:
    for long, short in (("missing: the trainer leaves it out", "left out"), ("mask: ", ""), ("ids: ", ""),
                        (" was scored, and the trainer leaves it out of the loss", " not in the loss"),
                        (" was not scored, and the trainer has it in the loss", " in the loss"),
                        (" was scored, the trainer has ", " is "), ("error: ", "refused: ")):
        what = what.replace(long, short)
    what = re.sub(r"'[^']*'", lambda token: f"`{token[0][1:-1] or ' '}`", what)
    return what.replace("|", "\\|")[:120]


def incremental() -> str:
    told = read_json(RESULTS / "incremental.json")
    rows = [[f"`{name}`", f"{one['rows']:,} + {one['more']:,}", f"{one['first_cpu_seconds']:.1f} s",
             f"{one['grown_cpu_seconds']:.2f} s",
             f"{one['share']:.2%}", "the same" if one["same_selection"] else "another",
             f"{one['largest_difference']:.0e}"]
            for name, one in told.items() if isinstance(one, dict)]
    return markdown(["method", "rows", "first run", "with 1% more", "share", "selection beside a fresh run's",
                     "similarities, largest difference"], rows)


def pools() -> str:
    rows = []
    for run in read_json(RESULTS / "pools.json")["runs"]:
        for name in dict.fromkeys(key.rpartition(", ")[0] for key in run if ", " in key):
            first, second = (run[f"{name}, {when}"] for when in ("first", "second"))
            rendered = first.get("rendered_per_second")
            rows.append([f"{run['rows']:,}", f"`{name}`", f"{first['seconds']:.0f} s", f"{second['seconds']:.0f} s",
                         f"{rendered:,}" if rendered else "",
                         f"{max(one['peak_mb'] for one in (first, second)):,}",
                         f"{max(one['peak_mb_of_all_processes'] for one in (first, second)):,}"])
    return markdown(["rows", "command", "first time", "second time", "rendered a second", "peak MB",
                     "of all processes"], rows)


def plans() -> str:
    rows = [[f"`{one['method']}`", f"{one['rows']:,}", f"{one['planned_seconds']:.0f} s",
             f"{one['run']['seconds']:.0f} s", f"{one['seconds_ratio']:.2f}",
             f"{one['planned_mb']:,} MB", f"{one['run']['peak_mb']:,} MB",
             f"{one['memory_ratio']:.2f}" if one["memory_ratio"] else "",
             f"{one['plan']['cpu_seconds']:.0f} s", f"{one['plan_share']:.1%}"]
            for one in read_json(RESULTS / "plans.json")["runs"]]
    return markdown(["method", "rows", "planned", "took", "ratio", "memory planned", "taken", "ratio",
                     "CPU seconds of the plan", "of the run's"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed, "speed-merged": partial(speed, "gradients-speed-merged"),
    "accuracy-lora-8": accuracy("lora-8"), "accuracy-lora-64": accuracy("lora-64"),
    "accuracy-full": accuracy("full"), "memory": memory, "submodular": submodular, "streaming": streaming,
    "forward": forward, "sparse-utility": sparse_utility, "stages": stages, "methods": methods,
    "families-right": families_right, "families-refused": families_refused, "families-left": families_left,
    "choice-by-rows": choice_by_rows, "choice-parts": choice_parts,
    "exports": exports, "published-fixed": published_fixed,
    "skills-random": skills_random, "skills-arms": skills_arms,
    "skills-by-target": skills_by_target, "fixed-methods": fixed_methods, "skills-choosing": skills_choosing,
    "two-stages": two_stages, "two-stages-by-gradients": two_stages_by_gradients,
    "gradient-forms": gradient_forms, "incremental": incremental,
    "pools": pools, "plans": plans,
}


def fill(page: str, tables: Mapping[str, Callable[[], str]]) -> None:
    """Write the tables of a page of the docs; one that is not recorded stays as it is."""
    def replaced(match: re.Match[str]) -> str:
        try:
            return f"{match[1]}{tables[match['name']]()}{match[3]}"
        except FileNotFoundError:
            return match[0]

    path = ROOT / "docs" / page
    write_text(path, _MARK.sub(replaced, path.read_text(encoding="utf-8")))


def main() -> None:
    for page in ("gradients.md", "selectors.md", "representations.md", "choosing.md", "models.md", "export.md",
                 "results.md", "scaling.md"):
        fill(page, TABLES)


if __name__ == "__main__":
    main()
