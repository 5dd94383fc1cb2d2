"""A LoRA adapter folded into its unquantised base, checked by log-probabilities.

    base (as stored) ─► base + adapter: log-probabilities ─► W + s B A in float32, rounded once ─► folder ─► loaded again: log-probabilities

At most one copy of the model is held, in its stored precision. Log-probabilities are computed in float32, by widening the weights of one
module at a time, so that the check measures the rounding of the merged weights and not the rounding of activations.

Nothing heavy is imported at the top: the driver uses the records, and a separate process does the work.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.contracts.errors import AdapterError, ConfigError
from learner.model.end_token import add_end_token

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARD_SIZE = "5GB"
MAX_CHECK_TOKENS = 256
"""Tokens of one checked text; the rest is cut off."""

TOLERANCE = {"float32": (1e-4, 1e-3), "float16": (0.01, 0.2), "bfloat16": (0.05, 1.0)}
"""Largest accepted mean and single |difference| of token log-probabilities, in nats, between merged and adapted model.

float32 changes only the order of sums: 1e-6 on the quickstart's model. bfloat16 rounds every weight by up to 2^-8 of itself, which moves
each layer's output by about 0.2 %, and the log-probabilities of models of useful size by 0.005 to 0.02 on average; float16 has three more bits.
A wrong scale or a forgotten module moves them by as much as the adapter does."""

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "tokenizer.model")

PLAIN_TEXTS = (
    "What is 17 + 25? Think step by step.",
    "Name the capital of France, and say in one sentence why it became the capital.",
    "Solve for x: 3x - 7 = 11. Show every step.",
    "Write a function that returns the n-th Fibonacci number.",
)
"""Prompts for the check if the job has no texts."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the present work, the number of its parts that are done, and the number of all parts."""


@dataclass(frozen=True, slots=True)
class MergeJob:
    """One merge: the adapter, its base, and the folder to write."""

    adapter: Path
    """A PEFT folder."""
    base: str
    """Local folder or hub id of the unquantised model."""
    folder: Path
    """Folder of the merged model; it must not exist."""
    dtype: str = "bfloat16"
    revision: str | None = None
    trust_remote_code: bool = False
    texts: tuple[str, ...] = ()
    """Rendered texts for the check, such as prompts with their completions; if empty, a few prompts under the chat template."""


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """A merged model that passed its check. Differences are of token log-probabilities, in nats."""

    parameters: int
    nbytes: int
    """Bytes of the folder."""
    modules: int
    """Modules that the adapter was merged into."""
    checked_tokens: int
    mean_difference: float
    max_difference: float
    mean_effect: float
    """Mean difference between the base with the adapter and without it."""

    @property
    def rounding_drowns_the_adapter(self) -> bool:
        """True where rounding to the saved precision changed the model by more than half of what training did."""
        return self.mean_difference > 0.5 * self.mean_effect


def merge(job: MergeJob, progress: Progress = lambda *_: None) -> MergeOutcome:
    """Write the merged model as a folder that engines serve: config, sharded safetensors, generation config, tokenizer with chat template.

    Raises:
        ConfigError: the base cannot be loaded, is quantised, or has no place for the adapter; or the disk is too small.
        AdapterError: the merged model's log-probabilities are not those of the base with the adapter.
    """
    progress("loading the base", 0, 1)
    tokenizer = _tokenizer(job)
    adapted = _adapted(_load(job.base, job), job)
    rows = [row for text in job.texts or _templated(tokenizer) if len(row := _token_ids(tokenizer, text)) > 1]
    if not rows:
        raise ConfigError(f"the tokenizer of {job.adapter} makes fewer than two tokens of every checked text: nothing can be compared")
    expected = _logprobs(adapted, rows, progress, "log-probabilities with the adapter")
    with adapted.disable_adapter():
        plain = _logprobs(adapted, rows, progress, "log-probabilities without it")
    modules = _fold(adapted, job.dtype, progress)
    model = adapted.unload()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _save(model, tokenizer, job, parameters, progress)
    del adapted, model
    gc.collect()
    found = _logprobs(_load(str(job.folder), job, dtype=job.dtype), rows, progress, "log-probabilities of the merged model")
    outcome = _outcome(job, parameters, modules, expected, plain, found)
    _refuse_difference(outcome, job)
    return outcome


def _load(path: str, job: MergeJob, dtype: str = "auto") -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        causal = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, revision=job.revision if path == job.base else None, trust_remote_code=job.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"the base model {path} cannot be loaded: {reason}; give its folder or hub id with --base") from None
    if getattr(causal.config, "quantization_config", None) is not None:
        raise ConfigError(f"the base model {path} is quantised, and weights are merged unquantised; give the original model with --base")
    return causal.eval()


def _adapted(causal: PreTrainedModel, job: MergeJob) -> PeftModel:
    """Put the adapter on the base, in float32, and check that every tensor of it was loaded."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    remedy = "give the adapter's own base model with --base"
    try:
        adapted = PeftModel.from_pretrained(causal, str(job.adapter), autocast_adapter_dtype=True).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"adapter {job.adapter} does not fit {job.base}: {reason}; {remedy}") from None
    with safe_open(job.adapter / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    missing = sorted(stored ^ set(get_peft_model_state_dict(adapted)))
    if missing:
        raise ConfigError(f"adapter {job.adapter} does not fit {job.base}: {missing[0]} is in one of them only; {remedy}")
    return adapted


def _fold(adapted: PeftModel, dtype: str, progress: Progress) -> int:
    """Set W + s B A, summed in float32 and rounded once to `dtype`, in every module of the adapter. Returns the number of modules."""
    import torch
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    for done, layer in enumerate(layers):
        progress("merging", done, len(layers))
        weight = layer.get_base_layer().weight
        with torch.no_grad():
            weight.data = (weight.float() + layer.get_delta_weight(adapted.active_adapter)).to(getattr(torch, dtype))
    progress("merging", len(layers), len(layers))
    return len(layers)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: MergeJob, parameters: int, progress: Progress) -> None:
    import torch

    dtype = getattr(torch, job.dtype)
    needed_bytes, free_bytes = parameters * dtype.itemsize, shutil.disk_usage(job.folder.parent).free
    if needed_bytes > free_bytes:
        raise ConfigError(
            f"{job.folder.parent} has {free_bytes / 1e9:.1f} GB left, and the merged model takes {needed_bytes / 1e9:.1f} GB in {job.dtype}: "
            "make room, or write it elsewhere with --output"
        )
    progress("saving", 0, 1)
    model.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(str(job.folder), max_shard_size=SHARD_SIZE)
    tokenizer.save_pretrained(str(job.folder))
    add_end_token(job.folder, tokenizer.eos_token_id)
    progress("saving", 1, 1)


def _tokenizer(job: MergeJob) -> PreTrainedTokenizerBase:
    """Load the adapter's own tokenizer, with the chat template of its training, or the base's if there is none."""
    from transformers import AutoTokenizer

    own = any((job.adapter / name).exists() for name in TOKENIZER_FILES)
    try:
        if own:
            return AutoTokenizer.from_pretrained(str(job.adapter), trust_remote_code=job.trust_remote_code)
        return AutoTokenizer.from_pretrained(job.base, revision=job.revision, trust_remote_code=job.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"neither {job.adapter} nor {job.base} has a tokenizer that can be loaded: {reason}; save one beside it"
        ) from None


def _templated(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if tokenizer.chat_template is None:
        return list(PLAIN_TEXTS)
    return [
        str(tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True))
        for text in PLAIN_TEXTS
    ]


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_CHECK_TOKENS]


def _logprobs(model: nn.Module, rows: Sequence[Sequence[int]], progress: Progress, what: str) -> np.ndarray:
    """Compute log-probabilities of tokens 1.. of every row, one row after another, in nats: float32 [sum of (len - 1)]."""
    import numpy as np
    import torch

    found = []
    with torch.no_grad(), computing_in_float32(model):
        for done, row in enumerate(rows):
            progress(what, done, len(rows))
            token_ids = torch.tensor([row])
            logprobs_TV = model(input_ids=token_ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            found.append(logprobs_TV.gather(-1, token_ids[0, 1:, None])[:, 0].numpy())
    progress(what, len(rows), len(rows))
    return np.concatenate(found)


@contextmanager
def computing_in_float32(model: nn.Module) -> Iterator[None]:
    """Make every module compute in float32 inside the block. Its weights are widened while it runs, then the same tensors are put back."""
    held: dict[int, list[tuple[nn.Parameter, Tensor]]] = {}

    def widen(module: nn.Module, *_: object) -> None:
        held[id(module)] = [(parameter, parameter.data) for parameter in module._parameters.values() if parameter is not None]
        for parameter, data in held[id(module)]:
            parameter.data = data.float()

    def restore(module: nn.Module, *_: object) -> None:
        for parameter, data in held.pop(id(module), []):
            parameter.data = data

    hooks = []
    for module in model.modules():
        if module._parameters:
            hooks += [module.register_forward_pre_hook(widen), module.register_forward_hook(restore, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _outcome(job: MergeJob, parameters: int, modules: int, expected: np.ndarray, plain: np.ndarray, found: np.ndarray) -> MergeOutcome:
    import numpy as np

    difference = np.abs(found - expected)
    return MergeOutcome(
        parameters=parameters,
        nbytes=sum(file.stat().st_size for file in job.folder.iterdir()),
        modules=modules,
        checked_tokens=len(expected),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
        mean_effect=float(np.abs(expected - plain).mean()),
    )


def _refuse_difference(outcome: MergeOutcome, job: MergeJob) -> None:
    mean, largest = TOLERANCE[job.dtype]
    if not (outcome.mean_difference <= mean and outcome.max_difference <= largest):
        raise AdapterError(
            f"{job.adapter} merged into {job.base} gives token log-probabilities that differ from those of the base with the adapter by "
            f"{outcome.mean_difference:.3g} nats on average and {outcome.max_difference:.3g} at most, over {outcome.checked_tokens} tokens; "
            f"{job.dtype} allows {mean:g} and {largest:g}. Nothing was written; try --dtype float32, and report it if that differs too"
        )
