"""The model of a run: how the base is held and served, and the adapter that is trained. Only what the serving engine can load is offered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.section import PositiveFloat, PositiveInt, Section

VLLM_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which the serving engine has buffers; a rank between two of them is served in the next larger one."""

QUANTISED_CANARY_TOLERANCE = {"nf4": 0.5, "int8": 0.1}
"""Twice and three times the largest mean difference, in nats, between quantised and original weights over 60 canaries of the quickstart's model
(0.26 and 0.03; their means are 0.18 and 0.02), which is narrow and so suffers more than models of a useful size."""

UNSERVED_LORA_KEYS = {
    "use_dora": "vLLM cannot serve DoRA",
    "use_qalora": "vLLM cannot serve QALoRA",
    "init_lora_weights": "an adapter starts at zero, and inits such as PiSSA, OLoRA or LoftQ change the base model, which the engines do not see",
    "modules_to_save": "vLLM serves the base model's own embeddings and head",
    "bias": "vLLM cannot serve trained biases",
    "lora_bias": "vLLM cannot serve trained biases",
    "rank_pattern": "one rank holds for all modules",
    "alpha_pattern": "one scale holds for all modules",
    "layer_replication": "vLLM serves the base model's own layers",
    "target_parameters": "adapters go on linear modules",
    "trainable_token_indices": "vLLM serves the base model's own embeddings",
}
"""PEFT's options that people bring along and that the serving engines cannot follow, each with the reason."""

EMBEDDINGS = ("embed_tokens", "lm_head")
"""Modules that no adapter may be on."""


class LoraSection(Section):
    """The adapter that is trained. Only what the serving engine can load is offered."""

    r: PositiveInt = 16
    """Rank of the adapter."""
    alpha: PositiveFloat = 32.0
    """Scale: the update is B A x alpha / r, or alpha / sqrt(r) with `use_rslora`."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r), under which the learning rate that suits one rank suits others (rsLoRA, arXiv:2312.03732, theorem 3.2)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: every linear layer but the head, or these names."""

    @model_validator(mode="before")
    @classmethod
    def _is_servable(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        asked = sorted(UNSERVED_LORA_KEYS.keys() & given.keys())
        if asked:
            raise ValueError("; ".join(f"{key} {given[key]!r} is no choice here: {UNSERVED_LORA_KEYS[key]}; remove it" for key in asked))
        return given

    @field_validator("r")
    @classmethod
    def _rank_is_servable(cls, r: int) -> int:
        if r > VLLM_LORA_RANKS[-1]:
            raise ValueError(f"r {r} is larger than {VLLM_LORA_RANKS[-1]}, the largest rank that vLLM serves; lower it")
        return r

    @field_validator("target_modules")
    @classmethod
    def _targets_are_inside(cls, target_modules: str | tuple[str, ...]) -> str | tuple[str, ...]:
        outside = [name for name in target_modules if name.rpartition(".")[2] in EMBEDDINGS] if isinstance(target_modules, tuple) else []
        if outside:
            raise ValueError(
                f"{', '.join(outside)} cannot have an adapter: the learner computes log-probabilities from the head itself, and never all "
                "logits; name linear layers inside the decoder, or all-linear"
            )
        return target_modules


class ModelSection(Section):
    """The base model and its adapter."""

    path: str
    """A hub id, a local folder, or `builtin:tiny_qwen2` (made on the spot, for the quickstart and tests)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the frozen base and of the engine. The CPU runs float32 faster."""
    attn_implementation: Literal["sdpa", "eager", "flex_attention"] = "sdpa"
    """Attention of the learner. `flex_attention` (GPU only) skips what no token of a packed row may see, where the others compute all
    width x width scores and hold a mask of that size: for long rows. It is compiled when first used."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off by default: it runs with your rights."""
    chat_template: str | None = None
    """A Jinja template, or the path of a file that holds one, used instead of the tokenizer's own everywhere."""
    eos_token: str | None = None
    """Token that ends an answer, such as `<|im_end|>`, instead of the tokenizer's own: demonstrations end with it, and engines stop at it."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the learner holds the frozen base. `nf4`: QLoRA (arXiv:2305.14314), 4-bit NormalFloat with doubly quantised scales, 4.1 bits a
    weight of the linear layers, multiplied in `dtype`. `int8`: LLM.int8() (arXiv:2208.07339), 8 bits. Needs bitsandbytes."""
    serve_quantized: Literal["original", "dequantized"] = "original"
    """What the engines serve under `nf4`: the original weights, whose difference from the learner's truncated importance sampling corrects,
    or the learner's own, dequantised to `dtype`, so that both compute the same model."""
    adapter: str | None = None
    """A PEFT adapter folder to start from, instead of a fresh one. Its rank, alpha and targets hold."""
    merge_adapter: bool = False
    """Merge `adapter` into the base before the run, which then trains a fresh one on the merged model, the reference of `beta` as well. False:
    `adapter` itself is trained further, and the reference is the base without it."""
    lora: LoraSection = LoraSection()

    @property
    def identity(self) -> dict[str, object]:
        """Key -> value of what is another model when it changes: a run goes on only with the same."""
        lora = self.lora.model_dump(mode="json", exclude={"dropout"})
        return {"model.path": self.path, "model.quantization": self.quantization, **{f"model.lora.{name}": lora[name] for name in lora}}

    @model_validator(mode="after")
    def _there_is_an_adapter_to_merge(self) -> ModelSection:
        if self.merge_adapter and self.adapter is None:
            raise ValueError(
                "merge_adapter without an adapter: there is nothing to merge; set adapter to a PEFT folder, or merge_adapter: false"
            )
        return self

    @model_validator(mode="after")
    def _dequantising_gives_the_learners_model(self) -> ModelSection:
        if self.serve_quantized == "dequantized" and self.quantization != "nf4":
            reason = (
                "there is nothing to dequantise"
                if self.quantization == "none"
                else "int8 quantises activations too, so no weights compute the same"
            )
            raise ValueError(
                f"serve_quantized dequantized does not go with quantization {self.quantization}: {reason}; use nf4, or serve_quantized original"
            )
        return self


BUILTIN = "builtin:"
"""Prefix of `model.path` and `data.path` values that rollcast makes on the spot instead of loading."""


BASE_MODEL, MERGED_MODEL, WARM_MODEL, DEQUANTISED_MODEL = "base_model", "merged_model", "model", "model_dequantised"
"""Folders in `out_dir` for a `builtin:` model, one with an adapter merged into it, what the warm start makes of it, and what engines serve of a
quantised base."""
