"""A tiny Qwen2 with a character tokenizer, and adapters for it, as the learner would send them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from configs.contracts.records import (
    Adapter,
    AdapterManifest,
    Canary,
    Prompt,
    PromptId,
    RolloutRequest,
    Sampling,
    TensorSlot,
    adapter_sha256,
)
from configs.schema.run import RunConfig

VOCABULARY = 128
RANK = 8


class TinyPolicy(NamedTuple):
    """An adapter as it travels, and the same policy in transformers + peft: the reference."""

    adapter: Adapter
    model: Any


def make_config(model_path: Path, **actors: Any) -> RunConfig:
    """A CPU run: float32, prompts up to 80 tokens, completions up to 48."""
    settings = {"gpus_per_worker": 0, "num_generations": 4, "max_completion_length": 48, "max_num_seqs": 16, "start_timeout_s": 300}
    return RunConfig.model_validate(
        {
            "model": {"path": str(model_path), "dtype": "float32", "lora": {"r": RANK, "alpha": 16}},
            "data": {"path": "builtin:addition", "max_prompt_length": 80},
            "actors": settings | actors,
            "learner": {"gpus_per_rank": 0, "train_batch_size": 8},
        }
    )


def make_request(
    index: int, *, attempt: int = 0, tokens: int = 12, length: int = 48, temperature: float = 1.0, G: int = 4
) -> RolloutRequest:
    """A group of G completions of a prompt whose tokens follow from its index."""
    token_ids = tuple(int(token) for token in np.random.default_rng(index).integers(3, VOCABULARY, tokens))
    prompt = Prompt(PromptId(0, index), token_ids, f"prompt {index}", {"solution": str(index)})
    return RolloutRequest(prompt, Sampling(G, length, temperature), attempt=attempt, seed=5)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Qwen2 with hidden size 64, 2 layers, and one token per character."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    characters = ["<pad>", "<eos>", "<unk>", *(chr(code) for code in range(32, 127)), "\n"]
    vocabulary = {token: index for index, token in enumerate(characters + [f"<{n}>" for n in range(VOCABULARY - len(characters))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    config = Qwen2Config(
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=2,
        num_key_value_heads=1,  # of 32 values: vLLM has no smaller ones on the CPU
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.12,  # large enough for distributions that are far from flat
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def pack(state: dict[str, Any], version: int, model_path: Path, canary: Canary | None, *, use_rslora: bool = False) -> Adapter:
    """The adapter as one flat buffer."""
    slots, end, parts = [], 0, []
    for name, tensor in sorted(state.items()):
        values = np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
        slots.append(TensorSlot(name, tuple(values.shape), end, end + values.nbytes))
        parts.append(values.reshape(-1).view(np.uint8))
        end += values.nbytes
    buffer = np.concatenate(parts)
    targets = tuple(sorted({name.split(".")[-3] for name in state}))
    manifest = AdapterManifest(
        version, adapter_sha256(buffer), "float32", tuple(slots), RANK, 16.0, targets, str(model_path), canary, use_rslora
    )
    return Adapter(manifest, buffer)


@pytest.fixture(scope="session")
def make_policy(tiny_model: Path) -> Callable[..., TinyPolicy]:
    """`make_policy(version)`: a random adapter of that version with its canary, and its reference model in float64.

    `make_policy(version, use_rslora=True)` scales it by alpha / sqrt(r).
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    policies: dict[int, TinyPolicy] = {}

    def make(version: int, use_rslora: bool = False) -> TinyPolicy:
        if version not in policies:
            torch.manual_seed(1000 + version)
            lora = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=use_rslora)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora)  # type: ignore[arg-type]
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
            state = get_peft_model_state_dict(model)
            model = model.double().eval()
            token_ids = tuple(range(3, 35))
            with torch.no_grad():
                logprobs = model(torch.tensor([token_ids])).logits[0, :-1].log_softmax(-1)
            canary = Canary(token_ids, tuple(logprobs.gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()))
            policies[version] = TinyPolicy(pack(state, version, tiny_model, canary, use_rslora=use_rslora), model)
        return policies[version]

    return make
