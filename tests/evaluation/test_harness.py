"""Scores of the lm-evaluation-harness are those of a plain loop over the model; tasks that cannot be scored, or bring
code, are refused before anything runs."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from siftune import api
from siftune._common.errors import ConfigError, DataError, SiftuneError
from siftune.evaluation.harness import example_scores, harness_scores, harness_tasks
from siftune.experiments import cells
from siftune.experiments.results import Results, read_results
from siftune.experiments.run import study
from siftune.experiments.text import short_table, tables
from siftune.models.lora import adapter_parameters
from siftune.report.study import build
from tests import tiny
from tests.experiments.studies import config, write_files

pytest.importorskip("lm_eval")

PROMPTS = ["What is the capital of France?", "Add 12 and 30.", "Sort these words: pear, fig.", "Count in banana.",
           "What is 3?", "Translate the sentence."]
CHOICES = [["Paris", "apple, fig, pear", "42"], ["42", "12"], ["fig, pear", "pear"], ["3", "There are 3 a's"],
           ["fig", "3", "12 + 30 = 42", "a"], ["Paris", "banana"]]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def choice_rows() -> list[dict]:
    return [{"prompt": p, "choices": c, "answer": i % len(c)}
            for i, (p, c) in enumerate(zip(PROMPTS, CHOICES, strict=True))]


def prompt_text(tokenizer, prompt: str) -> str:
    if tokenizer.chat_template is None:
        return prompt
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                         add_generation_prompt=True)


def log_likelihood(model, context: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + continuation])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(context) - 1 + t, token]) for t, token in enumerate(continuation))


def greedy(model, tokenizer, prompt: str, stops: set[int]) -> str:
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    new: list[int] = []
    with torch.no_grad():
        while len(new) < 64:
            token = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
            if token in stops:
                break
            new.append(token)
            if "\n" in tokenizer.decode(new):
                break
    return tokenizer.decode(new, skip_special_tokens=True).split("\n")[0].lstrip()


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_multiple_choice_is_the_choice_with_the_greatest_likelihood(tmp_path, template):
    model, tokenizer = tiny.model("llama", seed=1), tiny.tokenizer(template)
    rows = choice_rows()
    [task] = harness_tasks([write(tmp_path / "mine.jsonl", rows)], code=False, tokenizer=tokenizer)
    told = harness_scores(model, tokenizer, task, batch_size=4)["mine"]
    right, right_by_length = [], []
    for row in rows:
        prompt = prompt_text(tokenizer, row["prompt"])
        # White space at the end of a prompt belongs to the answer, as the harness has it.
        context = tokenizer.encode(prompt.rstrip(), add_special_tokens=False)
        between = "" if template else " "
        found = [log_likelihood(model, context, tokenizer.encode(prompt + between + choice,
                                                                 add_special_tokens=False)[len(context):])
                 for choice in row["choices"]]
        right.append(float(np.argmax(found) == row["answer"]))
        by_length = [ll / len(choice) for ll, choice in zip(found, row["choices"], strict=True)]
        right_by_length.append(float(np.argmax(by_length) == row["answer"]))
    assert told["n"] == len(rows)
    for metric, expected in (("acc", right), ("acc_norm", right_by_length)):
        one = told["metrics"][metric]
        assert one["examples"] == expected
        assert one["value"] == pytest.approx(np.mean(expected))
        assert one["stderr"] == pytest.approx(np.std(expected, ddof=1) / np.sqrt(len(rows)))
        assert one["higher_is_better"]
    assert 0 < sum(right) < len(rows), "otherwise this proves nothing"


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_generation_is_greedy_up_to_a_line_break(tmp_path, template):
    model, tokenizer = tiny.model("llama", seed=3), tiny.tokenizer(template)
    answers = [greedy(model, tokenizer, prompt_text(tokenizer, p), {tokenizer.eos_token_id}) for p in PROMPTS]
    rows = [{"prompt": p, "answer": a.upper() if i % 2 else f"not {a}"}
            for i, (p, a) in enumerate(zip(PROMPTS, answers, strict=True))]
    [task] = harness_tasks([write(tmp_path / "mine.jsonl", rows)], code=False, tokenizer=tokenizer)
    told = harness_scores(model, tokenizer, task, batch_size=2)["mine"]["metrics"]["exact_match"]
    expected = [float(row["answer"].strip().lower() == a.lower()) for row, a in zip(rows, answers, strict=True)]
    assert told["examples"] == expected
    assert told["value"] == pytest.approx(np.mean(expected))
    assert 0 < sum(expected) < len(rows)


def test_a_task_file_is_read_with_what_it_includes_and_the_data_beside_it(tmp_path):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    write(tmp_path / "rows.jsonl", choice_rows())
    (tmp_path / "base.yaml").write_text("dataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
                                        "dataset_kwargs: {data_files: {test: rows.jsonl}}\n")
    (tmp_path / "task.yaml").write_text('task: written\ninclude: base.yaml\ndoc_to_text: "{{prompt}}"\n'
                                        "doc_to_choice: choices\ndoc_to_target: answer\n"
                                        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n")
    named = [str(tmp_path / "task.yaml"), str(tmp_path / "rows.jsonl")]
    by_file, by_rows = harness_tasks(named, code=False, tokenizer=tokenizer)
    ours, theirs = (harness_scores(model, tokenizer, t) for t in (by_file, by_rows))
    assert ours["written"]["metrics"]["acc"] == theirs["rows"]["metrics"]["acc"]
    assert by_file.key != by_rows.key


def test_an_answer_longer_than_the_models_window_is_said_to_be_what_cannot_be_scored(tmp_path):
    model, tokenizer = tiny.model("gpt2", n_positions=32), tiny.tokenizer()
    [task] = harness_tasks([write(tmp_path / "long.jsonl", [{"prompt": PROMPTS[0], "answer": "Paris"}])], code=False,
                           tokenizer=tokenizer)
    with pytest.raises(SiftuneError, match="cannot score") as caught:
        harness_scores(model, tokenizer, task)
    assert isinstance(caught.value.__cause__, AssertionError)
    assert "maximum sequence length (32)" in str(caught.value)


def test_a_defect_is_not_said_to_be_a_task_that_does_not_fit(tmp_path):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    [task] = harness_tasks([write(tmp_path / "mine.jsonl", choice_rows())], code=False, tokenizer=tokenizer)
    model.forward = lambda *arguments, **more: None
    with pytest.raises((TypeError, AttributeError)):
        harness_scores(model, tokenizer, task)


def test_scoring_leaves_model_tokenizer_and_random_numbers_as_they_were(tmp_path):
    model, tokenizer = tiny.model("llama").train(), tiny.tokenizer()
    tokenizer.pad_token = None
    [task] = harness_tasks([write(tmp_path / "mine.jsonl", choice_rows())], code=False, tokenizer=tokenizer)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    harness_scores(model, tokenizer, task)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert model.training
    assert tokenizer.pad_token is None


def test_keys_follow_the_content_and_the_template(tmp_path):
    rows = choice_rows()
    chat, plain = tiny.tokenizer(), tiny.tokenizer(None)

    def key(folder: str, rows: list[dict], tokenizer) -> str:
        (tmp_path / folder).mkdir()
        return harness_tasks([write(tmp_path / folder / "mine.jsonl", rows)], code=False, tokenizer=tokenizer)[0].key

    first = key("a", rows, chat)
    assert key("b", rows, chat) == first
    assert len({first, key("c", rows, plain), key("d", [*rows[:-1], {**rows[-1], "answer": 0}], chat)}) == 3


def test_what_brings_code_is_refused_unless_asked_for(tmp_path):
    write(tmp_path / "rows.jsonl", choice_rows())
    head = ("task: mine\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\ndoc_to_target: answer\n"
            "doc_to_choice: choices\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n")
    (tmp_path / "functions.py").write_text("def text(doc):\n    return doc['prompt']\n")
    for name, rest, what in (
            ("function", "doc_to_text: !function functions.text\n", "brings code"),
            ("unsafe", "doc_to_text: prompt\nunsafe_code: true\n", "brings code"),
            ("metric", "doc_to_text: prompt\nmetric_list: [{metric: code_eval}]\n", "no metric 'code_eval'")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(head + rest)
        with pytest.raises(ConfigError, match=what) as caught:
            harness_tasks([str(path)], code=False, tokenizer=None)
        assert "lm_eval_code" in str(caught.value.hint)
    for name in ("function", "unsafe"):
        assert harness_tasks([str(tmp_path / f"{name}.yaml")], code=True, tokenizer=None)


def test_names_are_checked_and_data_looked_for_before_anything_runs():
    with pytest.raises(ConfigError, match="unknown lm-eval task") as caught:
        harness_tasks(["arc_eazy"], code=False, tokenizer=None)
    assert "arc_easy" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="humaneval runs what the model writes"):
        harness_tasks(["humaneval"], code=False, tokenizer=None)
    with pytest.raises(ConfigError, match="cannot load the lm-eval task arc_easy") as caught:  # tests are offline
        harness_tasks(["arc_easy"], code=False, tokenizer=None)
    assert "HF_HUB_OFFLINE" in str(caught.value.hint)


@pytest.mark.parametrize(("text", "what", "where"), [
    ("", "there is no row", ""), ("{", "is not JSON", ":1"), ('{"prompt": "a"}', "no prompt with an answer", ":1"),
    ('{"prompt": "a", "answer": 1}', "the answer is no text", ":1"),
    ('{"prompt": "a", "choices": ["b"], "answer": 0}', "two or more choices", ":1"),
    ('{"prompt": "a", "choices": ["b", "c"], "answer": 2}', "none of the choices", ":1"),
    ('{"prompt": "a", "choices": ["b", "c"], "answer": 1}\n\n{"prompt": "a", "answer": "b"}', "no list of", ":3"),
])
def test_rows_that_cannot_be_scored_are_told_with_their_line(tmp_path, text, what, where):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        harness_tasks([str(path)], code=False, tokenizer=None)
    assert caught.value.where == f"{path}{where}"
    assert "prompt" in str(caught.value.hint)


def test_missing_files_and_names_given_twice_are_errors(tmp_path):
    for name in ("nothing.yaml", "nothing.jsonl"):
        with pytest.raises(SiftuneError) as caught:
            harness_tasks([str(tmp_path / name)], code=False, tokenizer=None)
        assert str(tmp_path / name) in str(caught.value.where)
    (tmp_path / "a").mkdir()
    paths = [write(tmp_path / p, choice_rows()) for p in ("mine.jsonl", "a/mine.jsonl")]
    with pytest.raises(ConfigError, match="two tasks are called 'mine'"):
        harness_tasks(paths, code=False, tokenizer=None)


def test_a_study_scores_cells_that_are_trained_and_tests_what_has_a_score_for_each_example(tmp_path, monkeypatch):
    values = write_files(tmp_path)
    brief = {"methods": ["bm25"], "headline": ["bm25"], "budgets": ["10%"], "headline_seeds": 2,
             "targets": values["targets"][:1]}
    choices = write(tmp_path / "choices.jsonl", choice_rows())
    answers = write(tmp_path / "answers.jsonl", [{"prompt": p, "answer": "42"} for p in PROMPTS])
    study(config(tmp_path, values, "study", **brief))

    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "training").glob("*/training.json")}
    adapters: list[float] = []
    real = cells._score_harness

    def seen(loaded, model, shelf, cell):
        parameters = adapter_parameters(model) if cell.rows else {}
        adapters.append(sum(float(p.detach().abs().sum()) for n, p in parameters.items() if "lora_B" in n))
        real(loaded, model, shelf, cell)

    monkeypatch.setattr(cells, "_score_harness", seen)
    scored = study(config(tmp_path, values, "study", lm_eval=[choices, answers], **brief))
    result = scored.results.to_dict()
    assert result["complete"]
    assert len(trained) == 4
    assert trained == {path: path.stat().st_mtime_ns for path in trained}, "nothing was trained again"
    assert len(adapters) == 5
    assert [a > 0 for a in adapters] == [False, True, True, True, True], "the trained adapter is on the model"

    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    expected = {leaf: one for task in harness_tasks([choices, answers], code=False, tokenizer=tokenizer)
                for leaf, one in harness_scores(model, tokenizer, task).items()}
    told = result["cells"][0]["lm_eval"]
    assert {t: {m: one["value"] for m, one in metrics.items()} for t, metrics in told.items()} == {
        t: {m: one["value"] for m, one in one["metrics"].items()} for t, one in expected.items()}
    names = ["choices:acc", "choices:acc_norm", "answers:exact_match"]
    assert list(example_scores([expected])) == names
    name_of = {s["id"]: s["name"] for s in result["subsets"]} | {None: "zero-shot"}
    means = {}
    for arm in result["arms"]:
        of_arm = [c["lm_eval"] for c in result["cells"] if name_of[c["subset"]] == arm["name"]]
        means[arm["name"]] = np.mean([c["choices"]["acc_norm"]["value"] for c in of_arm])
        assert list(arm["lm_eval"]) == names
        assert arm["lm_eval"]["choices:acc_norm"]["mean"] == pytest.approx(means[arm["name"]])
    tests = {t["metric"]: t for t in result["tests"]}
    assert set(tests) >= {"loss", *names}
    assert tests["choices:acc_norm"]["n_examples"] == len(PROMPTS)
    assert tests["choices:acc_norm"]["difference"] == pytest.approx(means["bm25"] - means["random"])
    assert "choices:acc" in tables(Results.model_validate(result))
    page = build(scored.folder).read_text()
    assert "choices:acc" in page

    files = sorted(Path(tmp_path / "study" / "training").glob("*/lm-eval-*.json"))
    assert len(files) == 10
    before = [f.stat().st_mtime_ns for f in files]
    adapters.clear()
    assert study(config(tmp_path, values, "study", lm_eval=[choices, answers], **brief)).results.to_dict()["complete"]
    assert (adapters, [f.stat().st_mtime_ns for f in files]) == ([], before)

    made = config(tmp_path, values, "study", lm_eval=[choices], **brief)
    target = made.targets[0]
    compared = api.compare(dataclasses.replace(made.common, target=target.target, test=target.test, methods=("bm25",),
                                           budget="10%", seeds=2, output_dir=str(tmp_path / "compared")))
    arms = {a["name"]: a for a in compared.results.to_dict()["arms"]}
    assert arms["zero-shot"]["lm_eval"]["choices:acc"]["mean"] == pytest.approx(told["choices"]["acc"]["value"])
    assert {t["metric"] for t in compared.results.to_dict()["tests"]} >= {"choices:acc", "choices:acc_norm"}
    assert "choices:acc" in short_table(compared.results)
    assert read_results(compared.folder / "comparison.json") == compared.results
