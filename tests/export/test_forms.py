"""Which form an export has, and that the ids and labels in it are those that were scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from siftune._common.errors import ConfigError, DataError, ModelError
from siftune.data.readers import read_rows
from siftune.data.render import Renderer
from siftune.export import export
from siftune.export.export import TRAINERS
from tests import tiny
from tests.export.runs import CALL, CHATS, MARKED, MAX_LENGTH, UNTRAINED, lines, make_model, make_run, talk


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("marked"), MARKED)


def settings_of(files: list[Path]) -> dict[str, Any]:
    return yaml.safe_load(next(file for file in files if file.name.endswith(".yaml")).read_text())


def scored(run: Path, template: str | None = tiny.CHATML) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of the selected rows, straight from the renderer."""
    renderer = Renderer(tiny.tokenizer(template), max_length=MAX_LENGTH)
    rows, _ = read_rows([run / "selected.jsonl"], role="pool", format="mixed")
    made = [renderer.render(row.messages, row.tools) for row in rows]
    return [(one.ids.tolist(), [t if m else -100 for t, m in zip(one.ids.tolist(), one.mask, strict=True)])
            for one in made]


@pytest.mark.parametrize("to", TRAINERS)
def test_without_marks_the_ids_and_labels_that_were_scored_are_written(tmp_path: Path, model: Path, to: str) -> None:
    run = make_run(tmp_path / "run", [*CHATS, UNTRAINED], model)
    made = export(run, to, tmp_path / "out")
    assert made.form == "tokens"
    records = lines(made.files[0])
    assert [one["id"] for one in records] == [f"r{i}" for i in range(7)]
    assert [(one["input_ids"], one["labels"]) for one in records] == scored(run)
    assert all(one["attention_mask"] == [1] * len(one["input_ids"]) for one in records)
    assert max(len(one["input_ids"]) for one in records) == MAX_LENGTH  # the long one is cut, as it was scored
    assert str(model) in made.note


def test_settings_of_each_trainer_let_every_row_through(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", CHATS, model)
    limits = {"trl": "max_length", "axolotl": "sequence_len", "llamafactory": "cutoff_len"}
    for to, limit in limits.items():
        for form in ("tokens", "messages") if to != "trl" else ("tokens",):
            settings = settings_of(export(run, to, tmp_path / to / form, form=form).files)
            assert settings[limit] == MAX_LENGTH
    windowed = make_run(tmp_path / "windowed", CHATS, model, max_length=4096)
    assert settings_of(export(windowed, "trl", tmp_path / "w").files)["max_length"] == 512  # the model's window


def test_llamafactory_gets_a_folder_that_datasets_reads(tmp_path: Path, model: Path) -> None:
    import datasets

    run = make_run(tmp_path / "run", CHATS, model)
    for _ in range(2):  # an earlier export is written anew
        made = export(run, "llamafactory", tmp_path / "out")
    settings = settings_of(made.files)
    read = datasets.load_from_disk(str(tmp_path / "out" / settings["tokenized_path"]))
    assert set(read.column_names) == {"input_ids", "attention_mask", "labels"}  # an id would be taken for tokens
    assert [(row["input_ids"], row["labels"]) for row in read] == scored(run)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {file.name for file in made.files}


def test_with_marks_trl_gets_messages_and_computes_the_loss_on_them(tmp_path: Path, marked: Path) -> None:
    run = make_run(tmp_path / "run", CHATS, marked)
    made = export(run, "trl", tmp_path / "out")
    assert made.form == "messages"
    assert [set(one) for one in lines(made.files[0])] == [{"id", "messages"}] * 6
    assert settings_of(made.files) == {"datasets": [{"path": "json", "data_files": "selected.jsonl"}],
                                       "assistant_only_loss": True, "max_length": MAX_LENGTH}
    for to in ("axolotl", "llamafactory"):
        assert export(run, to, tmp_path / to).form == "tokens"


def test_turns_that_come_before_all_that_is_trained_on_are_the_prompt(tmp_path: Path, marked: Path) -> None:
    made = export(make_run(tmp_path / "run", [CHATS[0], UNTRAINED], marked), "trl", tmp_path / "out")
    assert made.form == "messages"
    assert [(len(one["prompt"]), len(one["completion"])) for one in lines(made.files[0])] == [(1, 1), (3, 3)]
    assert settings_of(made.files)["assistant_only_loss"] is True
    middle = {"messages": [*talk("Q", "A")["messages"], *UNTRAINED["messages"]]}
    run = make_run(tmp_path / "middle", [middle], marked)
    assert export(run, "trl", tmp_path / "m").form == "tokens"
    with pytest.raises(DataError, match="not to be trained on"):
        export(run, "trl", tmp_path / "n", form="messages")


def test_rows_with_thoughts_or_calls_go_as_tokens(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    template = MARKED.replace("{{ message['content'] + '<|im_end|>' }}",
                              "{{ (message['reasoning_content'] or '') + message['content'] + '<|im_end|>' }}")
    run = make_run(tmp_path / "run", [CHATS[0], CALL], make_model(tmp_path / "model", template))
    made = export(run, "trl", tmp_path / "out")
    assert made.form == "tokens"
    assert [(one["input_ids"], one["labels"]) for one in lines(made.files[0])] == scored(run, template)


def test_a_row_that_the_marks_render_otherwise_turns_the_form(tmp_path: Path) -> None:
    """A template that prints today's date: siftune's is fixed, the trainer's is not."""
    dated = "{{ strftime_now('%d %b %Y') }}" + MARKED
    run = make_run(tmp_path / "run", CHATS[:2], make_model(tmp_path / "model", dated))
    assert export(run, "trl", tmp_path / "out").form == "tokens"


def test_a_refused_system_message_is_written_where_it_was_scored(tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + MARKED
    run = make_run(tmp_path / "run", CHATS[:3], make_model(tmp_path / "model", refusing))
    made = export(run, "trl", tmp_path / "out")
    assert made.form == "messages"
    assert lines(made.files[0])[2]["messages"][0] == {"role": "user", "content": "Be brief.\n\n日本語? 🎌"}


def test_messages_without_marks_are_one_answer_at_the_end_or_refused(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", [CHATS[0], CHATS[2]], model)
    made = export(run, "trl", tmp_path / "out", form="messages")
    assert [len(one["completion"]) for one in lines(made.files[0])] == [1, 1]
    for records in ([CHATS[1]], [CHATS[3]], [CHATS[0], CHATS[4]]):
        other = make_run(tmp_path / records[-1]["messages"][-1]["content"] / str(len(records)), records, model)
        with pytest.raises(DataError, match="more than one answer at their end") as refused:
            export(other, "trl", tmp_path / "no", form="messages")
        assert "--form tokens" in (refused.value.hint or "")
    assert not (tmp_path / "no").exists()


def test_rows_that_llamafactory_would_drop_or_cut_elsewhere_are_named(tmp_path: Path, model: Path) -> None:
    made = export(make_run(tmp_path / "run", CHATS, model), "llamafactory", tmp_path / "out", form="messages")
    assert [warning.partition(":")[0] for warning in made.warnings] == [
        "these messages may come out with other ids or another loss mask than were scored",
        "LLaMA-Factory cuts 1 row (r5) in other places", "LLaMA-Factory leaves out 2 rows (r3, r4)"]
    short = make_run(tmp_path / "short", CHATS[:3], model)
    [other] = export(short, "llamafactory", tmp_path / "s", form="messages").warnings
    assert "--form tokens is exact" in other
    assert export(short, "llamafactory", tmp_path / "t").warnings == []


def test_axolotl_is_told_the_ends_of_turns_that_are_not_the_end_of_text(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", CHATS[:3], model)
    assert "eot_tokens" not in settings_of(export(run, "axolotl", tmp_path / "a", form="messages").files)
    other = make_model(tmp_path / "other")
    told = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**told, "eos_token": "<|endoftext|>"}))
    ended = export(make_run(tmp_path / "ended", CHATS[:3], other), "axolotl", tmp_path / "b", form="messages")
    assert settings_of(ended.files)["eot_tokens"] == ["<|im_end|>"]


def test_another_models_tokenizer_can_be_named(tmp_path: Path, model: Path, marked: Path) -> None:
    run = make_run(tmp_path / "run", CHATS[:2], model)
    assert export(run, "trl", tmp_path / "a", model=str(marked)).form == "messages"
    assert export(run, "trl", tmp_path / "b", model=(tiny.model("llama"), tiny.tokenizer(MARKED))).form == "messages"
    picky = make_model(tmp_path / "picky", "{% if messages | length > 3 %}{{ raise_exception('too many turns') }}"
                                           "{% endif %}" + tiny.CHATML)
    with pytest.raises(DataError, match="too many turns"):
        export(run, "trl", tmp_path / "c", model=str(picky))
    lax = make_run(tmp_path / "lax", CHATS[:2], model, bad_rows="drop")
    made = export(lax, "trl", tmp_path / "d", model=str(picky))
    assert (made.rows, [row.id for row in made.left_out]) == (1, ["r1"])
    assert len(lines(made.files[0])) == 1


def test_a_run_without_a_model_is_written_as_messages_and_says_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", CHATS[:1])
    assert export(run, "axolotl", tmp_path / "a").form == "messages"
    for options in ({"form": "tokens"}, {"check": True}):
        with pytest.raises(ConfigError, match="does not say which model") as refused:
            export(run, "axolotl", tmp_path / "b", **options)
        assert "--model" in (refused.value.hint or "")
    gone = make_run(tmp_path / "gone", CHATS[:1], tmp_path / "no-model")
    made = export(gone, "axolotl", tmp_path / "c")
    assert made.form == "messages"
    assert "cannot be loaded" in made.warnings[0]
    with pytest.raises(ModelError):
        export(gone, "axolotl", tmp_path / "d", form="tokens")


def test_forms_and_targets_that_do_not_go_together_are_refused(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", CHATS[:1], model)
    with pytest.raises(ConfigError, match="did you mean 'tokens'"):
        export(run, "trl", tmp_path / "out", form="token")
    for options in ({"form": "tokens"}, {"check": True}):
        for to in ("jsonl", "hub"):
            with pytest.raises(ConfigError, match="is for trainers"):
                export(run, to, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_has_changed_since_the_run_is_told(tmp_path: Path, model: Path, marked: Path) -> None:
    then = Renderer(tiny.tokenizer(), max_length=MAX_LENGTH).fingerprint()
    for name, used, changed in (("same", model, []), ("other", marked, ["chat template"])):
        run = make_run(tmp_path / name, CHATS[:1], used)
        (run / "manifest.json").write_text(json.dumps({"store": {"fingerprint": {"render": then}}}))
        warnings = export(run, "trl", tmp_path / "out" / name).warnings
        assert len(warnings) == len(changed)
        assert all(word in warnings[0] for word in changed)
