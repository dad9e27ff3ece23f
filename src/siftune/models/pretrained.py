"""Weights out of a checkpoint, refused where the model would not be what its files say.

transformers fills what a checkpoint lacks with random numbers, leaves out what it has too much, takes the decoder out
of an encoder-decoder model and runs BERT without a causal mask, each with a line in a log at most. Here each is an
error or a line that the user sees.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from siftune._common.errors import ModelError, first_line
from siftune._common.hub import hub_or_cache, not_reached
from siftune._common.nearest import did_you_mean
from siftune._common.progress import log
from siftune._common.reading import read_json_of
from siftune.config.options import shown

DECODERS = "siftune works with decoder-only models (Llama, Qwen, Gemma, Mistral, GPT-2, ...)"
_OTHER_TASK = re.compile(r"For(MaskedLM|PreTraining|(Sequence|Token|Image|Audio|Video)Classification|QuestionAnswering|"
                         r"MultipleChoice|NextSentencePrediction|CTC|SpeechSeq2Seq|MaskedImageModeling)$")
_SHOWN = 3
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")  # beside the weights, never read
_ADAPTER = "the folder should be one that PEFT's `save_pretrained` wrote"


def from_pretrained(loader: str, path: Path | str, name: str, **options: Any) -> Any:
    """``transformers.<loader>.from_pretrained``, whose errors say what to do.

    Raises:
        ModelError: it cannot be read.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # a bar of a second per load only hides what matters
    of_hub, silence = isinstance(path, str), None
    try:
        if not of_hub:
            return getattr(transformers, loader).from_pretrained(str(path), **options)
        with hub_or_cache() as silence:
            if silence is not None:
                options["local_files_only"] = True
            return getattr(transformers, loader).from_pretrained(path, **options)
    except Exception as error:  # files with whatever in them, read by as many packages
        raise ModelError(
            f"cannot load {'the tokenizer of ' if loader == 'AutoTokenizer' else ''}{name}",
            where="--model",
            why=not_reached(silence) if silence else _told(error),
            hint=did_you_mean(path) or
            "check the id and your connection to the hub, or give a local folder; --model embedded works offline"
            if of_hub else "the folder should be one that `save_pretrained` wrote, with model and tokenizer",
        ) from error


def _told(error: Exception) -> str:
    """The first line of an error, with its kind where the text alone says little (as that of a missing key)."""
    plain = isinstance(error, OSError | ValueError | ImportError | RuntimeError)
    return first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}"


def refuse_pickles(folder: Path) -> None:
    """Refuse weights that are there only in a form that can run code when it is read.

    Raises:
        ModelError: they are.
    """
    files = {file.name for file in folder.iterdir()}
    pickled = sorted(name for name in files if name.endswith(_PICKLED) and not name.startswith(_OF_TRAINING))
    if pickled and not any(name.endswith((".safetensors", ".safetensors.index.json", ".gguf")) for name in files):
        raise ModelError(f"the weights in {folder.name} are pickled ({pickled[0]})", where=str(folder / pickled[0]),
                         why="Reading a pickle can run code that stands in it; siftune reads safetensors alone.",
                         hint="if you trust the file, save the model again: model.save_pretrained(folder) writes "
                              "safetensors")


def load_checkpoint(path: Path | str, name: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """A decoder-only model with all of its weights, or the multimodal model around one.

    Args:
        path: folder or hub id.
        name: what the user called it.
        trust_remote_code: run code that comes with the model.
        options: for transformers' ``from_pretrained``.

    Raises:
        ModelError: it cannot be read; it is a model of another kind; weights are missing or have other shapes.
    """
    config = from_pretrained("AutoConfig", path, name, trust_remote_code=trust_remote_code)
    loader = _loader(config, name)
    if getattr(config, "quantization_config", None) is not None and options.pop("on", "cpu") != "cpu":
        options["device_map"] = {"": options["on"]}  # quantised weights are made where they stay
    options.pop("on", None)
    with _quiet_transformers():
        model, info = from_pretrained(loader, path, name, trust_remote_code=trust_remote_code,
                                      output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True,
                                      **options)
    _check_complete(model, info, name)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"{name} is an adapter on the hub", where="--model",
                         hint="download it and give its folder: it is then merged into the base model that it names")
    return model


def outline(path: Path | str, name: str, *, trust_remote_code: bool = False) -> Any:
    """The modules of a decoder-only model on torch's meta device: shapes, no weights.

    Raises:
        ModelError: its configuration cannot be read, or it is a model of another kind.
    """
    import torch
    import transformers

    config = from_pretrained("AutoConfig", path, name, trust_remote_code=trust_remote_code)
    loader = getattr(transformers, _loader(config, name))
    try:
        with _quiet_transformers(), torch.device("meta"):
            return loader.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # of whatever code makes the modules
        raise ModelError(f"cannot make the modules of {name} without its weights", where="--model",
                         why=_told(error), hint="leave --tokens-per-second out, so that the model is loaded") from error


def _loader(config: Any, name: str) -> str:
    """Which of transformers' loaders makes the language model of a configuration."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = str(getattr(config, "model_type", ""))
    saved = [str(c) for c in getattr(config, "architectures", None) or ()]
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder model", where="--model", why=_saved_as(saved), hint=DECODERS)
    if saved and _OTHER_TASK.search(saved[0]):
        raise ModelError(f"{name} is no language model that continues a text", where="--model", why=_saved_as(saved),
                         hint=f"{DECODERS}; name the checkpoint that this one was made from, if it was one of them")
    multimodal = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    classes = (multimodal,) if isinstance(multimodal, str) else tuple(multimodal or ())
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return "AutoModelForCausalLM"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not (saved and saved[0] in classes):
        return "AutoModelForCausalLM"
    if classes:
        return "AutoModelForImageTextToText"
    raise ModelError(f"{name} is no language model that transformers knows: a {kind or type(config).__name__}",
                     where="--model", why=_saved_as(saved), hint=DECODERS)


def _saved_as(saved: list[str]) -> str | None:
    return f"It was saved as {saved[0]}." if saved else None


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its own report on missing weights is a table with colours; what is in it is told in an error or a line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_complete(model: Any, info: dict[str, Any], name: str) -> None:
    kind = type(model).__name__
    if other := sorted(info["mismatched_keys"]):
        # Versions of transformers before 5 name the weights alone.
        key, *shapes = (other[0],) if isinstance(other[0], str) else other[0]
        told = f"is {_shape(shapes[0])} in the checkpoint, {_shape(shapes[1])} by config.json" if shapes else "is one"
        raise ModelError(f"{len(other)} weights of {name} have other shapes than {kind} needs", where="--model",
                         why=f"{key} {told}.",
                         hint="use the config.json that was saved with these weights; after tokens were added, save "
                              "the model itself again (model.save_pretrained)")
    if missing := sorted(info["missing_keys"]):
        head = all(re.search(r"(^|\.)(lm_head|embed_out|output)\.", key) for key in missing)
        raise ModelError(
            f"the checkpoint of {name} lacks {_count(missing, 'weight')} of {kind}", where="--model",
            why=f"They would be random numbers: {_some(missing)}.",
            hint="it has no output embedding, as checkpoints of base, embedding, reward and classification models "
                 "have none: name the language model that it was made from" if head else
                 "download or save it again, whole; all shards of an index must be there")
    if unused := sorted(info["unexpected_keys"]):
        log(f"warning: {_count(unused, 'weight')} in the checkpoint of {name} {'have' if len(unused) > 1 else 'has'} "
            f"no place in {kind} and {'are' if len(unused) > 1 else 'is'} not used: {_some(unused)}")


def _shape(sizes: Any) -> str:
    return "x".join(map(str, sizes)) or "a number"


def _count(names: Collection[str], what: str) -> str:
    return f"{len(names):,} {what}{'s' * (len(names) != 1)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def base_of_adapter(folder: Path, locate: Callable[[str], tuple[Path | str, Path | str | None]]) -> Path | str:
    """Where the base model is that an adapter folder names.

    Raises:
        ModelError: it names none, or one that is not there, or another adapter.
    """
    file = folder / "adapter_config.json"
    settings = read_json_of(file, _ADAPTER)
    named = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(named, str) or not named:
        raise ModelError("the adapter does not say which base model it belongs to", where=str(file),
                         why=None if named is None else f"It says {shown(named)}, which is no name.",
                         hint='give "base_model_name_or_path" in it the name of a model')
    try:
        base, below = locate(named)
    except ModelError as error:
        if "adapters name each other" in error.what:
            raise
        raise ModelError(f"the base model {named!r} of the adapter is not there", where=str(file), why=error.what,
                         hint='write where it is now into "base_model_name_or_path"') from error
    if below is not None:
        raise ModelError(f"the base model {named!r} of the adapter is itself an adapter", where=str(file),
                         hint="merge that one first (model.merge_and_unload()), save the result, and name it in "
                              '"base_model_name_or_path"')
    return base


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with a PEFT adapter merged into its weights.

    Raises:
        ModelError: the adapter is of another kind, cannot be read, or does not fit the model: modules that the model
            does not have, other shapes, weights that are missing or have no place.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    hint = "check that the adapter belongs to the base model that its adapter_config.json names"
    try:
        task = PeftConfig.from_pretrained(str(folder)).task_type
        if task not in (None, "CAUSAL_LM"):
            raise ModelError(f"the adapter is for another task: {task}", where=str(folder / "adapter_config.json"),
                             hint="give an adapter of a language model (task_type CAUSAL_LM)")
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing weights: an error below
            adapted = PeftModel.from_pretrained(model, str(folder))
        saved, own = set(load_peft_weights(str(folder), device="cpu")), set(get_peft_model_state_dict(adapted))
    except ModelError:
        raise
    except Exception as error:  # files with whatever in them
        raise ModelError("cannot load the adapter", where=str(folder), why=first_line(error), hint=hint) from error
    if not hasattr(adapted, "merge_and_unload"):
        raise ModelError(f"an adapter of this kind cannot be merged: {type(adapted.active_peft_config).__name__}",
                         where=str(folder), hint="give a LoRA adapter, or the base model itself")
    for what, names in (("lacks", own - saved), ("has, and the model has no place for,", saved - own)):
        if names:
            raise ModelError(f"the adapter {what} {_count(names, 'weight')} of {type(model).__name__}",
                             where=str(folder), why=f"{_some(sorted(names))}.", hint=hint)
    merged = adapted.merge_and_unload()  # pyright: ignore[reportCallIssue]
    if hasattr(merged, "peft_config"):  # older versions of peft leave it there
        del merged.peft_config
    return merged


def check_reads_onward(model: Any, tokenizer: Any, name: str) -> None:
    """A token must not see those after it, and a pass over a few tokens must work, before hours are spent.

    Two texts of six tokens that differ in the last one go through the model: what it says at the five before must be
    the same.

    Raises:
        ModelError: it is not, or the pass fails.
    """
    import torch

    ids = _some_ids(tokenizer, model)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids.to(next(model.parameters()).device),
                           attention_mask=torch.ones_like(ids).to(next(model.parameters()).device),
                           use_cache=False).logits.float()
    except Exception as error:  # whatever a model's own code raises
        raise ModelError(f"{type(model).__name__} cannot run a text of {ids.shape[1]} tokens", where=f"--model {name}",
                         why=f"{type(error).__name__}: {first_line(error)}",
                         hint="this one reads no text without what belongs to it, such as an image: name the language "
                              "model inside it, if that is published alone" if _asks_for_more(error) else
                              "the error is of the model's own code: check that its files belong together, and its "
                              "model card for packages that it needs") from error
    first, second = logits[:, :-1]
    scale = max(float(first.abs().max()), 1e-6)
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 2e-2
    if float((first - second).abs().max()) > tolerance * scale:
        raise ModelError(f"{type(model).__name__} lets a token see those that come after it", where=f"--model {name}",
                         why="So it does not predict the next token: encoders such as BERT do that.", hint=DECODERS)


def depends_on_batch(model: Any) -> str:
    """Why numbers of a row depend on the rows beside it, and what to do; empty where they do not.

    In bitsandbytes' 8 bits, features that are large anywhere in a batch are multiplied apart, in higher precision.
    """
    quantized = getattr(model.config, "quantization_config", None)
    threshold = getattr(quantized, "llm_int8_threshold", 0.0) if getattr(quantized, "load_in_8bit", False) else 0.0
    if not threshold:
        return ""
    return (f"in 8 bits with outliers (llm_int8_threshold {threshold:g}) what is computed of a row depends on its "
            "batch a little; hint: --batch-tokens 1 takes rows one at a time, and 4 bits do not have this")


def _asks_for_more(error: Exception) -> bool:
    return re.search(r"pixel_values|input_features|image|missing \d+ required positional", str(error)) is not None


def _some_ids(tokenizer: Any, model: Any) -> Any:
    """int64 [2, 6]: two texts that differ in the last token, of ordinary tokens."""
    import torch

    special = set(getattr(tokenizer, "all_special_ids", ()))
    known = model.get_input_embeddings().weight.shape[0]
    words = tokenizer("The quick brown fox jumps over the lazy dog, and then it sleeps.")["input_ids"]
    ordinary = [i for i in dict.fromkeys(words) if i not in special and i < known]
    ordinary += [i for i in range(known) if i not in special][: 7 - len(ordinary)] if len(ordinary) < 7 else []
    return torch.tensor([ordinary[:6], [*ordinary[:5], ordinary[6]]])
