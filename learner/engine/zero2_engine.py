"""DeepSpeed ZeRO-2 around the policy: accumulate, step, save, load. The only file that imports deepspeed.

Every rank holds all weights and computes gradients on its own micro-batches. ZeRO-2 sums the gradients over the ranks and gives each rank
1/R of them, with 1/R of the float32 master weights and of Adam's moments; each rank steps its share and sends the new weights to the others.

    rank 0   micro-batches 0 1 2 ─ backward ─┐                  ┌─► share 0: clip, AdamW ─┐
    rank 1   micro-batches 3 4   ─ backward ─┴─ sum gradients ──┴─► share 1: clip, AdamW ─┴─ gather weights

State is saved by parameter name, not by share, so that a run may resume with another number of ranks: `save` gathers each parameter's
float32 master and Adam moments over the ranks, and `load` gives every rank its share again.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from configs.contracts.errors import CheckpointError
from configs.schema.learner import OptimizerSection
from learner.buffer_sizes import BUCKET_ELEMENTS
from learner.engine.schedule import Schedule
from learner.model.adapters import save_adapter
from learner.model.policy import Policy

STATE_FILE = "learner.json"
OPTIMIZER_FILE = "optimizer.safetensors"
ADAPTER_FOLDER = "adapter"
MOMENTS = ("exp_avg", "exp_avg_sq")

Loss = Callable[[Policy], Tensor]
"""Computes one micro-batch's part of the loss, a scalar, under the model that it is given."""


class SavedState(TypedDict):
    """Content of `STATE_FILE`."""

    steps_done: int
    updates: int
    world_size: int
    facts: dict[str, int]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Result of one step, the same on every rank."""

    applied: bool
    """False if loss or gradient was not finite on some rank: that update and the rest of the step's updates were skipped."""
    updates: int
    """Number of times that loss and gradient were computed."""
    grad_norm: float
    """Norm of the gradient before clipping, averaged over the updates."""
    learning_rate: float


def join_process_group(*, rank: int, world_size: int, address: str, port: int, on_gpu: bool, timeout_s: float) -> None:
    """Make this process one rank of the learner: NCCL on GPUs, gloo on CPUs. Returns when all ranks have joined.

    Call it before any other use of deepspeed in the process.
    """
    os.environ.update(
        MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1"
    )
    deepspeed, backend, timeout = import_deepspeed(on_gpu=on_gpu), "nccl" if on_gpu else "gloo", timedelta(seconds=timeout_s)
    # Left to itself, torch would listen on every interface of rank 0's node, and anybody could write into the store.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family).detach() if rank == 0 else None
    store = TCPStore(address, port, world_size, is_master=rank == 0, timeout=timeout, master_listen_fd=listener)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)


def import_deepspeed(*, on_gpu: bool) -> ModuleType:
    """Import deepspeed so that it compiles nothing. On a GPU torch.compile works afterwards, for FlexAttention; on a CPU it stays disabled."""
    # Otherwise the import decorates functions with torch.compile, which loads the inductor: it takes seconds and a C++ compiler.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    # If no op is listed as compatible, `init_distributed` does not build its shared-memory collectives: two minutes, and a C++ compiler.
    setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010 (the type checker does not know the attribute)
    if on_gpu:
        del os.environ["TORCHDYNAMO_DISABLE"]
    return deepspeed


class LearnerEngine:
    """One rank's engine. Every method is collective: all ranks call it, in the same order.

    `steps_done` is the policy version: it counts steps, skipped ones included, and not their updates.
    """

    def __init__(self, policy: Policy, optimizer: OptimizerSection, schedule: Schedule, *, offload: bool = False) -> None:
        """Wrap `policy`; `offload` keeps the optimizer's state, and steps, in the host's memory."""
        import deepspeed
        import torch.distributed

        self.policy = policy
        self.schedule = schedule
        self.steps_done = 0
        self._updates = 0
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._parameters = policy.trainable()
        adam = torch.optim.AdamW(
            self._parameters.values(),
            lr=schedule.peak,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_epsilon,
            weight_decay=optimizer.weight_decay,
        )
        settings = _deepspeed_settings(policy, optimizer.max_grad_norm, offload=offload)
        self._engine: Any = deepspeed.initialize(model=policy, optimizer=adam, config=settings)[0]

    def step(self, losses: Sequence[Loss], *, num_iterations: int = 1) -> StepOutcome:
        """Do `num_iterations` optimizer updates at one learning rate, each on the sum of `losses` over all ranks.

        Every update calls each of `losses` once, in order, and differentiates it before it calls the next. Every rank passes at least one
        loss; ranks may pass different numbers of them.
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

    def _update(self, losses: Sequence[Loss]) -> bool:
        """Do one optimizer update. Returns False, having changed nothing, if loss or gradient was not finite on some rank."""
        # Gradients are reduced over the ranks once, after the last loss: ranks may have different numbers of losses, and would wait for
        # one another for ever if each backward reduced.
        with self._engine.coalesce_grad_reduction():
            for loss_of in losses:
                loss = loss_of(self._engine)
                # DeepSpeed's check of gradients is collective, a check of losses is not. So a loss that is not finite makes this rank's
                # gradients NaN, and all ranks skip the update together.
                poison = 1.0 if bool(torch.isfinite(loss)) else float("nan")
                # The step's loss is a sum over ranks, and DeepSpeed averages: with 2 ranks it would take (a + b) / 2 of a + b.
                self._engine.backward(loss * (self.world_size * poison), scale_wrt_gas=False)
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        applied = not self._engine.optimizer.overflow
        if not applied:
            # With offload and bfloat16, DeepSpeed 0.19.8 keeps the gradients of a skipped update and would add those of later ones to them.
            self._engine.optimizer.averaged_gradients.clear()
        return applied

    def save(self, folder: Path, facts: Mapping[str, int]) -> None:
        """Write adapter (if one is trained), master weights, moments, random states and `facts` under `folder`.

        Raises:
            CheckpointError: it cannot be written, as on a full disk.
        """
        from safetensors import SafetensorError

        state = self._gather()
        try:
            self._write(folder, state, facts)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(str(error)) from None
        torch.distributed.barrier()

    def _write(self, folder: Path, state: dict[str, torch.Tensor], facts: Mapping[str, int]) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(_random_states(), folder / f"rng-{self.rank}.safetensors")
        if self.rank == 0:
            save_file(state, folder / OPTIMIZER_FILE)
            if self.policy.adapted:
                save_adapter(self.policy, folder / ADAPTER_FOLDER)
            saved = SavedState(steps_done=self.steps_done, updates=self._updates, world_size=self.world_size, facts=dict(facts))
            (folder / STATE_FILE).write_text(json.dumps(saved))

    def load(self, folder: Path) -> dict[str, int]:
        """Restore what `save` wrote, with any number of ranks; with the same number the run continues bit for bit. Returns the facts.

        Raises:
            CheckpointError: a file is missing or damaged, or belongs to another model or adapter.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            saved: SavedState = json.loads((folder / STATE_FILE).read_text())
            state = load_file(folder / OPTIMIZER_FILE)
            random_states = load_file(folder / f"rng-{self.rank}.safetensors") if saved["world_size"] == self.world_size else None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder} cannot be read as a learner checkpoint ({error}); resume from another one") from error
        expected = {f"{key}/{name}": tuple(parameter.shape) for name, parameter in self._parameters.items() for key in ("master", *MOMENTS)}
        if expected != {name: tuple(tensor.shape) for name, tensor in state.items()}:
            raise CheckpointError(
                f"{folder} was written by another model or adapter than this run's: its tensors differ; check model.path and model.lora"
            )
        self._scatter(state, saved["updates"])
        self.steps_done, self._updates = saved["steps_done"], saved["updates"]
        if random_states is not None:
            _restore_random_states(random_states)
        return saved["facts"]

    def close(self) -> None:
        """Free DeepSpeed's hooks and buffers, so that this process can make another engine."""
        self._engine.destroy()

    def _gather(self) -> dict[str, Tensor]:
        """Collect whole master weights and moments on the CPU of rank 0, named `master/<name>`, `exp_avg/<name>`, `exp_avg_sq/<name>`."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._ensure_moments()
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            # Every rank has to ask, as each holds a share of the answer.
            whole = {f"master/{name}": safe_get_full_fp32_param(parameter)}
            whole |= {f"{key}/{name}": safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if self.rank == 0:
                state |= {key: tensor.cpu() for key, tensor in whole.items() if tensor is not None}
        return state

    def _scatter(self, state: dict[str, Tensor], updates: int) -> None:
        """Set weights, this rank's share of master weights and moments, and Adam's count of updates."""
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
        """Make Adam allocate its moments, so that they can be read and written before the first real step.

        Adam allocates them in its first step. So this takes a step with zero gradients at rate 0, which changes no weight, and then sets Adam's
        count of steps back to 0.
        """
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


def _deepspeed_settings(policy: Policy, max_grad_norm: float, *, offload: bool) -> dict[str, object]:
    on_gpu = policy.device.type == "cuda"
    bucket = min(BUCKET_ELEMENTS[policy.device.type], sum(parameter.numel() for parameter in policy.trainable().values()))
    settings: dict[str, object] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        # torch's AdamW everywhere: DeepSpeed's own would have to be compiled first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,  # never
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            **({"offload_optimizer": {"device": "cpu", "pin_memory": on_gpu}} if offload else {}),
        },
    }
    if policy.dtype == torch.bfloat16:
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
