"""DeepSpeed ZeRO-2 around the policy: accumulate, step, save, load. The only file that imports deepspeed.

State is saved by parameter name, not by shard, so that a run may go on with another number of ranks: `save` gathers each
parameter's float32 master and Adam moments over the ranks, `load` hands every rank its part again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.contracts.errors import CheckpointError
from configs.schema.learner import OptimizerSection
from learner.buffer_sizes import BUCKET_ELEMENTS
from learner.engine.schedule import Schedule
from learner.model.policy import Policy

STATE_FILE = "learner.json"
OPTIMIZER_FILE = "optimizer.safetensors"
ADAPTER_FOLDER = "adapter"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The result of one step."""

    applied: bool
    """False when loss or gradient was not finite on some rank: that update, and those that were to follow it in the step, were left out."""
    updates: int
    """Number of times that loss and gradient were computed."""
    grad_norm: float
    """Before clipping, the mean over the updates."""
    learning_rate: float


def join_process_group(*, rank: int, world_size: int, address: str, port: int, on_gpu: bool, timeout_s: float) -> None:
    """Make this process one rank of the learner: NCCL on GPUs, gloo on CPUs. Waits until all ranks have come.

    Call it before any other use of deepspeed in the process.
    """
    os.environ.update(
        MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1"
    )
    import_deepspeed(on_gpu=on_gpu).init_distributed(
        dist_backend="nccl" if on_gpu else "gloo", auto_mpi_discovery=False, timeout=timedelta(seconds=timeout_s), verbose=False
    )


def import_deepspeed(*, on_gpu: bool) -> Any:
    """Import deepspeed so that it compiles nothing. On a GPU torch.compile works afterwards, for FlexAttention; on a CPU it does nothing."""
    # Without this its import decorates functions with torch.compile, which loads the inductor: seconds, and a C++ compiler.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    # With no op said to be compatible, `init_distributed` does not build its shared-memory collectives: two minutes, and a C++ compiler.
    setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010 (the type checker does not know the attribute)
    if on_gpu:
        del os.environ["TORCHDYNAMO_DISABLE"]
    return deepspeed


class LearnerEngine:
    """One rank's engine. Every method is collective: all ranks call it, in the same order.

    `steps_done` counts the steps, skipped ones included, and not their updates: the policy version, which the window and the engines count
    as well.
    """

    def __init__(self, policy: Policy, settings: OptimizerSection, schedule: Schedule) -> None:
        import deepspeed
        import torch.distributed

        self.policy = policy
        self.schedule = schedule
        self.steps_done = 0
        self._updates = 0
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._parameters = policy.trainable()
        optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=schedule.peak,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
        )
        self._engine: Any = deepspeed.initialize(model=policy, optimizer=optimizer, config=_deepspeed_config(policy, settings))[0]

    def step(self, losses: Sequence[Callable[[Policy], Tensor]], *, num_iterations: int = 1) -> StepOutcome:
        """One step of `num_iterations` optimizer updates at one learning rate, each on the sum of `losses` over all ranks.

        `losses` are called in order, once an update, each made and differentiated before the next. Every rank passes at least one; their
        numbers may differ.
        """
        learning_rate = self.schedule.learning_rate(self.steps_done)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        applied, norms = True, []
        while applied and len(norms) < num_iterations:
            applied = self._update(losses)
            self._updates += applied
            norms.append(float(self._engine.get_global_grad_norm()))
        self.steps_done += 1
        return StepOutcome(applied, len(norms), sum(norms) / len(norms), learning_rate)

    def _update(self, losses: Sequence[Callable[[Policy], Tensor]]) -> bool:
        """One optimizer update; whether loss and gradient were finite on every rank, without which it changes nothing."""
        with self._engine.coalesce_grad_reduction():
            for make_loss in losses:
                loss = make_loss(self._engine)
                # A loss that is not finite makes every gradient of this rank NaN, so DeepSpeed's check, which all ranks agree on, finds it.
                poison = 1.0 if bool(torch.isfinite(loss)) else float("nan")
                # DeepSpeed averages gradients over ranks; the loss is a part of a sum.
                self._engine.backward(loss * (self.world_size * poison), scale_wrt_gas=False)
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        applied = not self._engine.optimizer.overflow
        if not applied:
            # With offload and bfloat16, DeepSpeed 0.19.8 would keep the sum of a skipped step and add every later one to it.
            self._engine.optimizer.averaged_gradients.clear()
        return applied

    def save(self, folder: Path, facts: Mapping[str, int]) -> None:
        """Write adapter (if one is trained), master weights, moments, random states and `facts` under `folder`, which exists."""
        from safetensors.torch import save_file

        state = self._gather()
        save_file(_random_states(), folder / f"rng-{self.rank}.safetensors")
        if self.rank == 0:
            save_file(state, folder / OPTIMIZER_FILE)
            if self.policy.adapted:
                self.policy.save_adapter(folder / ADAPTER_FOLDER)
            (folder / STATE_FILE).write_text(
                json.dumps({"steps_done": self.steps_done, "updates": self._updates, "world_size": self.world_size, "facts": dict(facts)})
            )
        torch.distributed.barrier()

    def load(self, folder: Path) -> dict[str, int]:
        """Go on from what `save` wrote, with any number of ranks. With the same number, the run goes on bit for bit. Returns the facts.

        Raises:
            CheckpointError: something is missing, or belongs to another model or adapter.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            facts = json.loads((folder / STATE_FILE).read_text())
            state = load_file(folder / OPTIMIZER_FILE)
            random_states = load_file(folder / f"rng-{self.rank}.safetensors") if facts["world_size"] == self.world_size else None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder} is no learner checkpoint that can be read ({error}); resume from another one") from error
        expected = {f"{key}/{name}": tuple(parameter.shape) for name, parameter in self._parameters.items() for key in ("master", *MOMENTS)}
        if expected != {name: tuple(tensor.shape) for name, tensor in state.items()}:
            raise CheckpointError(
                f"{folder} was written by another model or adapter than this run's: its tensors differ; check model.path and model.lora"
            )
        self._scatter(state, facts["updates"])
        self.steps_done, self._updates = facts["steps_done"], facts["updates"]
        if random_states is not None:
            _restore_random_states(random_states)
        return facts["facts"]

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers, so that another engine may be made in this process."""
        self._engine.destroy()

    def _gather(self) -> dict[str, Tensor]:
        """Master weights and moments of every parameter, whole, on the CPU of rank 0: `master/<name>`, `exp_avg/<name>`, `exp_avg_sq/<name>`."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._ensure_moments()
        state: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            whole: dict[str, Any] = {f"master/{name}": safe_get_full_fp32_param(parameter)}
            whole |= {f"{key}/{name}": safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if self.rank == 0:
                state |= {key: tensor.cpu() for key, tensor in whole.items()}
        return state

    def _scatter(self, state: dict[str, Tensor], updates: int) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._ensure_moments()
        for name, parameter in self._parameters.items():
            parameter.data.copy_(state[f"master/{name}"])
            safe_set_full_fp32_param(parameter, state[f"master/{name}"].to(parameter.device))
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, state[f"{key}/{name}"].to(parameter.device), key)
        for moments in self._engine.optimizer.state.values():
            moments["step"].fill_(updates)

    def _ensure_moments(self) -> None:
        """Adam makes its moments in its first step; a step with zero gradients at rate 0 makes them and changes nothing."""
        if self._engine.optimizer.state:
            return
        for group in self._engine.optimizer.param_groups:
            group["lr"] = 0.0
        with self._engine.coalesce_grad_reduction():
            zero = sum(parameter.sum() for parameter in self._parameters.values()) * 0.0
            self._engine.backward(zero, scale_wrt_gas=False)
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        for moments in self._engine.optimizer.state.values():
            moments["step"].zero_()


def _deepspeed_config(policy: Policy, settings: OptimizerSection) -> dict[str, Any]:
    on_gpu = policy.device.type == "cuda"
    bucket = min(BUCKET_ELEMENTS["cuda" if on_gpu else "cpu"], sum(parameter.numel() for parameter in policy.trainable().values()))
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
    }
    if settings.offload_optimizer:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if policy.dtype == torch.bfloat16:
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
