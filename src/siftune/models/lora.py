"""LoRA adapters that are the same for the same seed, wherever and beside whatever they are attached.

LoRA (arXiv 2106.09685): ``W x + (alpha / rank) * B A x`` with ``A`` random and ``B`` zero. ``A`` of each module is
drawn from a generator seeded by the module's own name, so it depends on neither the global random state, nor the
device, nor which other modules carry an adapter.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch

from siftune._common import seeds
from siftune._common.errors import ConfigError, ModelError, first_line
from siftune._common.progress import log
from siftune.models.language_part import is_linear, language_modules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel
    from torch import Tensor

_ATTENTION = re.compile(r"attn|attention")
_LAYER_INDEX = re.compile(r"\.(\d+)\.")
_IDLE = re.compile(r"encoder_attn|crossattention|cross_attn|\bindexer\.")
_REFUSED_BY_PEFT = ("out_proj", "conv1d")  # in models with mamba's blocks, whose kernels read weights past adapters


@dataclass(frozen=True)
class LoraSettings:
    """Where adapters go and how large they are.

    Attributes:
        rank: Inner dimension of ``B A``.
        alpha: Scale: the adapter's output is multiplied by ``alpha / rank``.
        dropout: Probability of dropping an input of the adapter; active in training only.
        targets: ``"auto"`` for the projections of every attention block (q, k, v, o; fused ones where the
            architecture fuses them), or names of linear modules (``"q_proj"``, ``"mlp.down_proj"``: whole
            components at the end of the module's path).
        layers: ``"all"``, or ``k`` for the last ``k`` layers.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.1
    targets: tuple[str, ...] | Literal["auto"] = "auto"
    layers: int | Literal["all"] = "all"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"a LoRA rank of {self.rank} is no adapter", where="--lora-rank", hint="try 8")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"a LoRA dropout of {self.dropout} is not in [0, 1)", where="--lora-dropout",
                              hint="try 0.1")
        if self.layers != "all" and self.layers < 1:
            raise ConfigError(f"adapters on the last {self.layers} layers are no adapters", where="--lora-layers",
                              hint="give a number from 1, or all")


def attach_lora(model: Any, settings: LoraSettings, seed: int) -> PeftModel:
    """Put fresh LoRA adapters on a causal language model, in place.

    The base is frozen; the adapters are float32 whatever the base's dtype; the model is left in eval mode and the
    global random state as it was.

    Args:
        model: A plain causal language model of transformers.
        settings: Which modules, which rank.
        seed: Determines the initial weights, together with each module's name and shape.

    Returns:
        The PEFT wrapper around the same model; :func:`detach_lora` gives the plain model back.

    Raises:
        ModelError: the model has adapters already, or no linear module matches the targets.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ModelError("the model already has adapters", hint="detach them first, or load the base model")
    names = target_modules(model, settings)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float works: it is only divided by the rank
        lora_dropout=settings.dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(_is_conv1d(model.get_submodule(name)) for name in names),
    )
    # PEFT draws an initialisation of its own, which is overwritten below, and calls what transformers deprecates.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            wrapped = get_peft_model(model, config)
        except (ValueError, NotImplementedError, TypeError, ImportError) as error:
            _take_off(model)
            raise ModelError(f"PEFT cannot adapt this {type(model).__name__}", where="--lora-targets",
                             why=first_line(error),
                             hint=f"for example --lora-targets {_suggestion(model, _linear_modules(model))}") from error
    carrying = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in adapter_parameters(wrapped)}
    if other := carrying ^ set(names):
        kinds = sorted({name.rpartition(".")[2] for name in names if name not in carrying})
        detach_lora(wrapped)
        raise ModelError(f"PEFT puts adapters elsewhere in {type(model).__name__} than asked", where="--lora-targets",
                         why=f"For example at {min(other)}: it takes {', '.join(kinds)} for parts of experts.",
                         hint=f"leave {', '.join(kinds)} out")
    _say_what_has_none(model, names, settings)
    for name, parameter in adapter_parameters(wrapped).items():
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(seeds.derive(seed, "lora", name))
            # Kaiming-uniform with a = sqrt(5), LoRA's own choice, is uniform in +-1/sqrt(fan_in).
            bound = parameter.shape[1] ** -0.5
            start = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(start)
    return wrapped.eval()  # type: ignore[return-value]


def _take_off(model: Any) -> None:
    """Put back what PEFT has replaced before it gave up."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, module.base_layer)


def detach_lora(model: PeftModel) -> Any:
    """Take the adapters off again and give back the plain model, unchanged, its weights no longer frozen."""
    base = model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config  # left behind, it makes PEFT believe in a second adapter
    for parameter in base.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # quantised weights cannot have gradients
    return base


def target_modules(model: Any, settings: LoraSettings) -> list[str]:
    """Full names of the modules that ``settings`` selects, in the model's order.

    Raises:
        ModelError: none matches, or one of the named targets matches nothing; lists the linear modules there are.
        ConfigError: ``settings.layers`` exceeds the number of layers.
    """
    linear = _linear_modules(model)
    if settings.targets == "auto":
        found = [name for name in linear if _of_attention(model, name)]
        missing = [] if found else ["attention blocks"]
    else:
        found = [name for name in linear if any(_ends_with(name, target) for target in settings.targets)]
        missing = [target for target in settings.targets if not any(_ends_with(name, target) for name in linear)]
    if missing:
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        hint = (f"name some of them, for example --lora-targets {example}" if (example := _suggestion(model, linear))
                else "LoRA needs linear layers of torch: load the model without what replaced them")
        raise ModelError(
            f"no linear module of {type(model).__name__} matches {', '.join(missing)}",
            where="--lora-targets",
            why=f"Its linear modules are: {', '.join(kinds) or 'none'}.",
            hint=hint,
        )
    return found if settings.layers == "all" else _last_layers(found, settings.layers)


def adapted_layers(model: Any, names: list[str]) -> tuple[int, int]:
    """(blocks of the language model that have one of these modules, blocks in all)."""
    return len(_blocks_of(names)), len(_blocks_of(_linear_modules(model)))


def _blocks_of(names: list[str]) -> set[str]:
    """The numbers of the blocks that these modules are in."""
    return {match.group(1) for name in names if (match := _LAYER_INDEX.search(name))}


@cache
def _say_once(message: str) -> None:
    log(message)


def _say_what_has_none(model: Any, names: list[str], settings: LoraSettings) -> None:
    """A hybrid model has attention in some of its blocks only: whoever leaves the choice open should know."""
    some, blocks = adapted_layers(model, names)
    if settings.targets != "auto" or settings.layers != "all" or not 0 < some < blocks:
        return
    adapted, own, other = _blocks_of(names), set(), []
    for name in _linear_modules(model):
        inside = _blocks_of([name])
        if inside & adapted:
            own.add(name.rpartition(".")[2])
        elif inside:
            other.append(name)
    bare = [name for name in other if name.rpartition(".")[2] not in own]  # what takes the place of attention there
    example = _suggestion(model, bare)
    _say_once(f"adapters on {some} of {blocks} layers: the others of {type(model).__name__} have no attention"
              + (f" (to adapt them too: --lora-targets {_suggestion(model, names)},{example})" if example else ""))


def block_modules(model: Any, layers: int | Literal["all"] = "all") -> list[str]:
    """Full names of all linear modules inside the model's blocks (not the output embedding), in the model's order.

    Raises:
        ConfigError: ``layers`` exceeds the number of layers.
    """
    names = [n for n in _linear_modules(model) if _LAYER_INDEX.search(n)]
    return names if layers == "all" else _last_layers(names, layers)


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The live adapter parameters by full name, in ``named_parameters`` order."""
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def adapter_state(model: Any) -> dict[str, Tensor]:
    """A copy of the adapter weights by full parameter name, on the CPU, in ``named_parameters`` order."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in adapter_parameters(model).items()}


def load_adapter_state(model: Any, state: Mapping[str, Tensor]) -> None:
    """Copy weights into the adapter, by name; exactly the names of the model, no more and no fewer.

    Raises:
        ModelError: a name is missing or unexpected, or a shape differs; nothing was changed.
    """
    live = adapter_parameters(model)
    differences = {
        "missing": [name for name in live if name not in state],
        "unexpected": [name for name in state if name not in live],
        "of another shape": [n for n, p in live.items() if n in state and state[n].shape != p.shape],
    }
    problems = [f"{kind} ({len(names)}): {', '.join(names[:3])}" for kind, names in differences.items() if names]
    if problems:
        raise ModelError(
            "these adapter weights belong to another model or other LoRA settings",
            why="; ".join(problems),
            hint="use the --model and --lora settings that the adapter was trained with",
        )
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(state[name])


def _linear_modules(model: Any) -> list[str]:
    """Names of the linear modules that text passes through, in the model's order.

    A decoder's cross-attention has nothing to look at, and what an indexer of sparse attention puts out only chooses.
    """
    return [name for name, module in language_modules(model) if is_linear(module) and not _IDLE.search(name)]


def _of_attention(model: Any, name: str) -> bool:
    """By the path, or by the class of the module around it (Nemotron-H calls all of its mixers the same)."""
    owner, _, kind = name.rpartition(".")
    if kind == "gate_proj":  # of attention's output; PEFT takes every module of that name for one of experts
        return False
    around = type(model.get_submodule(owner)).__name__
    return bool(_ATTENTION.search(owner.lower()) or _ATTENTION.search(around.lower()))


def _suggestion(model: Any, names: list[str]) -> str:
    """Some linear modules of the blocks, largest first, that PEFT adapts in a model of this kind."""
    unsuitable = (*_REFUSED_BY_PEFT, "dt_proj") if _state_space(model) else ()
    sizes: dict[str, int] = {}
    for name in names:
        kind = name.rpartition(".")[2]
        if _LAYER_INDEX.search(name) and "expert" not in name and kind not in unsuitable:
            sizes[kind] = max(sizes.get(kind, 0), model.get_submodule(name).weight.numel())
    return ",".join(sorted(sizes, key=lambda kind: (-sizes[kind], kind))[:4])


def _state_space(model: Any) -> bool:
    return any("mamba" in type(module).__name__.lower() for module in model.modules())


def _is_conv1d(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer with a transposed weight

    return isinstance(module, Conv1D)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _last_layers(names: list[str], count: int) -> list[str]:
    layer = {name: int(match.group(1)) for name in names if (match := _LAYER_INDEX.search(name))}
    total = max(layer.values(), default=-1) + 1
    if count > total:
        raise ConfigError(f"the model has {total} layers, not {count}", where="--lora-layers",
                          hint=f"give a number up to {total}, or all")
    return [name for name in names if name in layer and layer[name] >= total - count]
