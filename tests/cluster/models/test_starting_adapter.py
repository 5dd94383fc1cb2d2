"""`model.adapter`: its settings become the run's, and what the engines could not serve is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.inspection.estimate import estimate
from cluster.models.shape import TINY_SHAPE
from cluster.models.starting_adapter import LINEAR_NAMES, with_starting_adapter
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from learner.model.adapters import export_adapter
from learner.model.policy import Policy

PREFIX = "base_model.model.model.layers"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from learner.model.tiny_model import create_tiny_model

    return create_tiny_model(tmp_path_factory.mktemp("tiny"), seed=0)


def tensors(r: int = 8, layers: int = 3, names: tuple[str, ...] = ("q_proj", "v_proj"), scale: int = 1) -> dict[str, np.ndarray]:
    """A and B for the quickstart's model, or one `scale` times as wide."""
    sizes: dict[str, tuple[int, int]] = dict(zip(LINEAR_NAMES, TINY_SHAPE.linear_shapes, strict=True))
    found = {}
    for layer in range(layers):
        for name in names:
            inputs, outputs = sizes[name]
            found[f"{PREFIX}.{layer}.self_attn.{name}.lora_A.weight"] = np.full((r, inputs * scale), 0.1, np.float32)
            found[f"{PREFIX}.{layer}.self_attn.{name}.lora_B.weight"] = np.full((outputs * scale, r), 0.1, np.float32)
    return found


def folder(path: Path, weights: dict[str, np.ndarray] | None = None, **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 24, "lora_dropout": 0.1, "target_modules": ["v_proj", "q_proj"], "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(plain | {"init_lora_weights": True, "modules_to_save": None} | settings))
    save_file(tensors() if weights is None else weights, path / "adapter_model.safetensors")
    return path


def run_config(adapter: Path | str | None, **lora: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": "builtin:tiny_qwen2", "dtype": "float32", "adapter": adapter and str(adapter), "lora": lora},
            "data": {"path": "builtin:addition"},
            "actors": {"gpus_per_worker": 0},
            "learner": {"gpus_per_rank": 0},
        }
    )


def refusal(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        with_starting_adapter(config)
    return str(caught.value)


def test_the_adapters_settings_are_the_runs(tmp_path: Path, tiny_model: Path) -> None:
    """The learner's adapter, the manifest and the estimate follow them, as do the engine's buffers, which are as large as `model.lora.r`."""
    config = with_starting_adapter(run_config(folder(tmp_path / "a", use_rslora=True)))
    lora = config.model.lora
    assert (lora.r, lora.alpha, lora.use_rslora, lora.target_modules, lora.dropout) == (8, 24.0, True, ("q_proj", "v_proj"), 0.1)
    policy = Policy.load(config.model, str(tiny_model))
    manifest = export_adapter(policy, 0).manifest
    assert (manifest.r, manifest.alpha, manifest.use_rslora, manifest.target_modules) == (8, 24.0, True, ("q_proj", "v_proj"))
    assert policy.causal.model.layers[0].self_attn.q_proj.lora_dropout["default"].p == 0.1
    assert estimate(config, TINY_SHAPE).adapter_parameters == TINY_SHAPE.adapter_parameters(8)
    assert with_starting_adapter(config) == config, "a run that is resumed reads its own resolved configuration"


def test_dropout_is_the_runs_own_choice(tmp_path: Path, tiny_model: Path) -> None:
    config = with_starting_adapter(run_config(folder(tmp_path / "a"), r=8, alpha=24, dropout=0.0, target_modules=["v_proj", "q_proj"]))
    assert config.model.lora.dropout == 0.0
    layer = Policy.load(config.model, str(tiny_model)).causal.model.layers[0].self_attn.q_proj
    assert not any(getattr(module, "p", 0.0) for module in layer.lora_dropout.modules())


def test_a_run_without_one_is_left_alone() -> None:
    config = run_config(None)
    assert with_starting_adapter(config) is config


@pytest.mark.parametrize(
    ("lora", "wanted"),
    [
        ({"r": 16}, "model.lora.r is 16, but the adapter in"),
        ({"alpha": 16}, "model.lora.alpha is 16.0, but the adapter in"),
        ({"use_rslora": True}, "model.lora.use_rslora is True, but the adapter in"),
        ({"target_modules": ["q_proj"]}, "model.lora.target_modules is ('q_proj',), but the adapter in"),
    ],
)
def test_settings_that_contradict_the_adapter_are_refused(tmp_path: Path, lora: dict[str, Any], wanted: str) -> None:
    message = refusal(run_config(folder(tmp_path / "a"), **lora))
    assert wanted in message and "which holds; remove model.lora." in message


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"use_dora": True}, "its use_dora is True, and vLLM cannot serve DoRA"),
        ({"modules_to_save": ["lm_head"]}, "its modules_to_save is ['lm_head']"),
        ({"bias": "lora_only"}, "its bias is 'lora_only'"),
        ({"lora_bias": True}, "its lora_bias is True"),
        ({"init_lora_weights": "pissa"}, "its init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "loftq"}, "its init_lora_weights is 'loftq'"),
        ({"layer_replication": [[0, 2]]}, "its layer_replication is"),
        ({"rank_pattern": {"q_proj": 4}}, "its rank_pattern is"),
        ({"alpha_pattern": {"q_proj": 4}}, "its alpha_pattern is"),
        ({"trainable_token_indices": [5]}, "its trainable_token_indices is"),
        ({"target_parameters": ["mlp.experts"]}, "its target_parameters is"),
        ({"alora_invocation_tokens": [5]}, "its alora_invocation_tokens is"),
        ({"peft_type": "IA3"}, "is of the type IA3: only LORA is supported"),
        ({"r": 600}, "has rank 600, and vLLM serves 1 to 512"),
        ({"r": 4}, "it must be A or B of rank 4 on a linear layer"),
        ({"lora_alpha": None}, "has the lora_alpha None: it must be a number above 0"),
        ({"lora_alpha": 0}, "has the lora_alpha 0: it must be a number above 0"),
    ],
)
def test_what_engines_cannot_serve_is_refused(tmp_path: Path, settings: dict[str, Any], wanted: str) -> None:
    message = refusal(run_config(folder(tmp_path / "a", **settings)))
    assert wanted in message and str(tmp_path) in message and ";" in message


@pytest.mark.parametrize("settings", [{"init_lora_weights": "gaussian"}, {"rank_pattern": {}, "alpha_pattern": {}, "use_dora": False}])
def test_harmless_settings_are_not_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert with_starting_adapter(run_config(folder(tmp_path / "a", **settings))).model.lora.r == 8


@pytest.mark.parametrize(
    "weights",
    [
        tensors(scale=2),
        tensors(layers=4),
        {
            f"{PREFIX}.0.self_attn.q_proj.lora_A.weight": np.zeros((8, 128), np.float32),
            f"{PREFIX}.0.self_attn.q_proj.lora_B.weight": np.zeros((64, 8), np.float32),
        },
    ],
    ids=["wider", "deeper", "fewer heads"],
)
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    message = refusal(run_config(folder(tmp_path / "a", weights)))
    assert "is for another model than builtin:tiny_qwen2" in message and "3 layers and 128 inputs" in message


@pytest.mark.parametrize(
    "name", ["base_model.model.lm_head.lora_A.weight", f"{PREFIX}.0.mlp.up_proj.lora_embedding_A", "base_model.model.lm_head.weight", "x"]
)
def test_tensors_that_are_no_lora_of_a_linear_layer_are_refused(tmp_path: Path, name: str) -> None:
    message = refusal(run_config(folder(tmp_path / "a", tensors() | {name: np.zeros((8, 128), np.float32)})))
    assert f"holds {name} of shape [8, 128]" in message


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "has no adapter_config.json that can be read" in refusal(run_config(tmp_path / "nothing"))
    broken = folder(tmp_path / "a")
    (broken / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    assert "has no adapter_model.safetensors that can be read" in refusal(run_config(broken))
    assert "holds no tensors" in refusal(run_config(folder(tmp_path / "b", {})))


def test_an_adapter_that_is_merged_leaves_the_runs_own_settings(tmp_path: Path, tiny_model: Path) -> None:
    """The policy puts a fresh adapter of the run's rank on the merged model, and none of the old one's weights."""
    given = run_config(folder(tmp_path / "a"), r=4)
    merging = given.model_copy(update={"model": given.model.model_copy(update={"merge_adapter": True})})
    config = with_starting_adapter(merging)
    assert (config.model.lora, config.model.adapter) == (given.model.lora, str(tmp_path / "a"))
    policy = Policy.load(config.model, str(tiny_model))
    assert export_adapter(policy, 0).manifest.r == 4
    assert all(float(tensor.detach().abs().max()) == 0 for name, tensor in policy.trainable().items() if "lora_B" in name)
    other = merging.model_copy(
        update={"model": merging.model.model_copy(update={"adapter": str(folder(tmp_path / "b", tensors(scale=2)))})}
    )
    assert "is for another model" in refusal(other)


@pytest.mark.parametrize(
    ("named", "path", "refused"), [("a/one", "b/two", True), ("a/one", "a/one", False), ("a/one", None, False), (None, "b/two", False)]
)
def test_an_adapter_that_names_another_model_of_the_hub_is_refused(
    tmp_path: Path, named: str | None, path: str | None, refused: bool
) -> None:
    given = run_config(folder(tmp_path / "a", base_model_name_or_path=named))
    config = given.model_copy(update={"model": given.model.model_copy(update={"path": path or str(tmp_path)})})
    if refused:
        assert "was trained on a/one, and model.path is b/two" in refusal(config)
    else:
        assert with_starting_adapter(config).model.lora.r == 8


def test_a_warm_start_under_an_adapter_is_refused(tmp_path: Path) -> None:
    """It would train every weight of the base, and the adapter would go on weights that it was not trained on."""
    given = run_config(folder(tmp_path / "a"))
    warm = given.learner.model_validate({**given.learner.model_dump(), "warm_start": {}})
    config = given.model_copy(update={"learner": warm})
    message = refusal(config)
    assert f"learner.warm_start with model.adapter {tmp_path}/a" in message and "set learner.warm_start: null" in message
    merging = config.model_copy(update={"model": config.model.model_copy(update={"merge_adapter": True})})
    assert with_starting_adapter(merging).learner.warm_start is not None
