"""The serving engine: vLLM's AsyncLLM with one LoRA slot. The only module that imports vllm.

    sample ──► semaphore (max_num_seqs) ──► gate ──► AsyncLLM ──► Completion
                                              ▲ shut while an adapter is loaded
    load_adapter: shut the gate ─► wait for first tokens ─► pause(keep) ─► load in place ─► tag version ─► resume ─► open

Running completions continue with the new weights and keep their keys and values; vLLM tags every token with the version that
sampled it. A completion of 30 tokens that was at token 20 when version 4 replaced version 3 has two spans:

    tokens  0 ........ 20 ...... 30
            version 3    version 4          VersionSpan(3, 0, 20), VersionSpan(4, 20, 30)

The gate and the semaphore exist because vLLM fixes a request's prefix-cache key when the request is *submitted*. A request that is
submitted under version 3, waits inside the engine, and starts under version 4 would reuse the keys and values of version 3. So a request
waits outside until it can start at once. No type of vLLM leaves this module.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.logprobs import FlatLogprobs
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from actors.engine.follow_actor import ACTOR_PID
from configs.contracts.errors import AdapterError, PoisonPromptError, RolloutError
from configs.contracts.records import Completion, Sampling, VersionSpan
from configs.schema.model import VLLM_LORA_RANKS
from configs.schema.run import RunConfig

CPU_KV_CACHE_BYTES = 256 << 20
CPU_BLOCK_SIZE = 32
"""With vLLM's CPU default, 128, prompts of fewer than 128 tokens would share no prefix."""
CPU_PREFILL_TOKENS = 4096
FIRST_TOKENS_WAIT_S = 1.0
"""Longest wait for the engine to read submitted prompts before an adapter is loaded. What it has read by then keeps the keys and values of the
adapter before, as in completions that are running."""
ADAPTER_SLOT = 1
SHUTDOWN_S = 5.0
SOCKET_NAME_BYTES = 36
"""vLLM names a socket by a UUID."""
SOCKET_PATH_LIMIT_BYTES = 107
"""Longest path of a socket on Linux (unix(7))."""


class SamplingJob(NamedTuple):
    """One completion to be sampled."""

    token_ids: Sequence[int]
    sampling: Sampling
    seed: int


class LoadTimes(NamedTuple):
    """Wall seconds that loading one adapter took."""

    drain_s: float
    """Wait until every submitted prompt was read; the engine works meanwhile."""
    paused_s: float
    """From asking the engine to stand still until it ran again: an upper bound of the time it stood still."""
    load_s: float
    """Part of `paused_s` in which vLLM read the adapter."""


def engine_args(config: RunConfig, model_path: str, seed: int) -> AsyncEngineArgs:
    """vLLM's arguments for one worker of this run, on GPUs or on the CPU."""
    actors = config.actors
    on_gpu = actors.gpus_per_worker > 0
    ranks = max(1, int(actors.gpus_per_worker))
    device: dict[str, Any] = {
        "dtype": config.model.dtype,
        "enforce_eager": actors.enforce_eager,
        "gpu_memory_utilization": actors.gpu_memory_utilization,
        "kv_cache_memory_bytes": actors.kv_cache_memory_bytes,
        # vLLM's own choice would be "ray" inside a placement group
        "distributed_executor_backend": "mp" if ranks > 1 else "uni",
        "tensor_parallel_size": ranks,
        "worker_extension_cls": "rollcast.EngineExtension",
        # every request has the adapter: graphs without it would never run
        "compilation_config": {"cudagraph_specialize_lora": False},
    }
    if not on_gpu:
        device = {
            "dtype": config.model.dtype,
            "enforce_eager": True,
            "kv_cache_memory_bytes": actors.kv_cache_memory_bytes or CPU_KV_CACHE_BYTES,
            "block_size": CPU_BLOCK_SIZE,
            "distributed_executor_backend": "uni",
            # a seeded request whose prompt is read in parts kills vLLM 0.32 on the CPU ("CPU Generator does not use offset"):
            # prompts are read whole, and one always fits beside all running completions
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_PREFILL_TOKENS, config.max_model_len + actors.max_num_seqs + 1),
            "worker_extension_cls": "rollcast.CpuLoraExtension",
        }
    return AsyncEngineArgs(
        model=model_path,
        revision=config.model.revision if model_path == config.model.path else None,
        trust_remote_code=config.model.trust_remote_code,
        max_model_len=config.max_model_len,
        max_num_seqs=actors.max_num_seqs + 1,  # one more than `sample` uses, so that the canary never waits
        enable_lora=True,
        max_loras=1,
        max_cpu_loras=2,
        max_lora_rank=next(rank for rank in VLLM_LORA_RANKS if rank >= config.model.lora.r),
        logprobs_mode="processed_logprobs",
        enable_prefix_caching=True,
        seed=seed,
        disable_log_stats=True,
        **device,
    )


def keep_sockets_in(folder: Path) -> None:
    """Make vLLM put its sockets into `folder`, unless the path is too long for a socket: it never removes its sockets in /tmp."""
    if len(os.fsencode(folder)) + 1 + SOCKET_NAME_BYTES <= SOCKET_PATH_LIMIT_BYTES:
        os.environ["VLLM_RPC_BASE_PATH"] = str(folder)


class Engine:
    """One vLLM engine. It samples only after a first `load_adapter`.

    Example::

        engine = await Engine.start(config, "/models/tiny", seed=1, sockets=Path("/dev/shm/run"))
        await engine.load_adapter(0, Path("/dev/shm/run/v0"))
        completion = await engine.sample((5, 6, 7), Sampling(8, 64), seed=3)
    """

    def __init__(self, llm: AsyncLLM, max_num_seqs: int, eos_token: str | None = None) -> None:
        self._llm = llm
        self._tokenizer = llm.get_tokenizer()
        self._stop_token_ids = [] if eos_token is None else [self._tokenizer.get_vocab()[eos_token]]
        """In addition to the end tokens in the model's generation_config.json."""
        self._adapter: LoRARequest | None = None
        self._loading = asyncio.Lock()
        self._gate = asyncio.Event()
        self._limit = asyncio.Semaphore(max_num_seqs)
        self._names = itertools.count()
        self._running: set[str] = set()
        self._finished_tokens = 0
        self.version = -1
        """Policy version that it samples with now; -1 before the first adapter."""

    @classmethod
    async def start(cls, config: RunConfig, model_path: str, *, seed: int, sockets: Path) -> Engine:
        """Load the model and start the engine process.

        Args:
            seed: different for every engine of a run; engines with the same seed would sample the same for requests without one.
            sockets: folder for the sockets to the engine process; the caller removes it.

        Raises:
            RolloutError: vLLM could not start; its own text is the worker's log.
        """
        os.environ[ACTOR_PID] = str(os.getpid())
        keep_sockets_in(sockets)
        try:
            llm = await asyncio.to_thread(AsyncLLM.from_engine_args, engine_args(config, model_path, seed))
        except Exception as error:
            raise RolloutError(f"vLLM did not start on {model_path}: {type(error).__name__}: {error}") from None
        return cls(llm, config.actors.max_num_seqs, config.model.eos_token)

    @property
    def vocab_size(self) -> int:
        return self._llm.model_config.get_vocab_size()

    @property
    def max_model_len(self) -> int:
        return self._llm.model_config.max_model_len

    @property
    def dead(self) -> bool:
        """True if the engine process is gone; it cannot be revived."""
        return self._llm.errored

    @property
    def in_flight(self) -> int:
        """Completions that the engine is working on."""
        return len(self._running)

    @property
    def pids(self) -> list[int]:
        """The engine's own processes."""
        return [child.pid for child in multiprocessing.active_children() if child.pid is not None]

    def tokens_sampled(self) -> int:
        """Tokens sampled since the start, including running completions. The number stops growing when the engine hangs."""
        states = self._llm.output_processor.request_states.values()
        return self._finished_tokens + sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer)

    def check_prompt(self, token_ids: Sequence[int], sampling: Sampling) -> None:
        """Refuse a prompt that vLLM would refuse, cut short, or crash on.

        Raises:
            PoisonPromptError: empty, too long for its completion to fit, or with a token that the model does not have.
        """
        limit = self.max_model_len - sampling.max_completion_length
        if not token_ids:
            raise PoisonPromptError("a prompt without tokens cannot be continued; leave it out of the data")
        if len(token_ids) > limit:
            raise PoisonPromptError(
                f"a prompt of {len(token_ids)} tokens does not leave room for {sampling.max_completion_length} in a context of "
                f"{self.max_model_len}; leave out prompts of more than {limit} tokens"
            )
        if min(token_ids) < 0 or max(token_ids) >= self.vocab_size:
            raise PoisonPromptError(
                f"a prompt has token ids from {min(token_ids)} to {max(token_ids)}, but the model has only 0 to {self.vocab_size - 1}; "
                "tokenise with the tokenizer of this model"
            )

    async def sample(self, token_ids: Sequence[int], sampling: Sampling, seed: int) -> Completion:
        """Sample one completion up to its end token (included) or the length limit. Temperature 0 is greedy.

        Raises:
            RolloutError: the engine died, was aborted, or has no adapter.
        """
        async with self._limit:
            await self._gate.wait()
            return await self._finish(*await self._submit(SamplingJob(token_ids, sampling, seed)))

    async def sample_together(self, jobs: Sequence[SamplingJob]) -> list[Coroutine[None, None, Completion]]:
        """Submit all jobs, in order, while the engine stands still, so that their batches are the same on every run.

        They do not use the semaphore: beyond `max_num_seqs` they wait inside the engine, in order. So no adapter may be loaded before they end.

        Returns:
            Coroutines that give the completions, each to be awaited once.
        """
        async with self._loading:
            try:
                await self._llm.pause_generation(mode="keep", clear_cache=False)
                submitted = [await self._submit(job) for job in jobs]
                await self._llm.resume_generation()
            except EngineDeadError:
                raise self._death() from None
        return [self._finish(*one) for one in submitted]

    async def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of `token_ids[1:]`, each given the tokens before it, at temperature 1: float64 [T - 1], in nats.

        Raises:
            RolloutError: the engine died.
        """
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        output = await self._output(*await self._add(token_ids, params))
        positions = (output.prompt_logprobs or [])[1:]
        return np.array([(at or {})[token].logprob for at, token in zip(positions, token_ids[1:], strict=True)])

    async def load_adapter(self, version: int, folder: Path) -> LoadTimes:
        """Sample with the PEFT adapter in `folder` from now on, running completions included.

        Args:
            folder: a path that no other version has used: the prefix cache knows versions by it.

        Raises:
            AdapterError: vLLM refuses the adapter; the one before stays in force.
            RolloutError: the engine died.
        """
        async with self._loading:
            self._gate.clear()
            began = time.monotonic()
            try:
                await self._wait_for_first_tokens()
                drained = time.monotonic()
                load_s = await self._load_in_place(version, folder)
                return LoadTimes(drained - began, time.monotonic() - drained, load_s)
            except EngineDeadError:
                raise self._death() from None
            finally:
                if self._adapter is not None:
                    self._gate.set()

    async def shutdown(self) -> None:
        """End the engine's processes; safe to call when they are gone already."""
        await asyncio.to_thread(self._llm.shutdown, SHUTDOWN_S)

    async def _load_in_place(self, version: int, folder: Path) -> float:
        """Overwrite the adapter in its slot while the engine stands still; returns the seconds that loading took."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        try:
            began = time.monotonic()
            await self._add_lora(LoRARequest("policy", ADAPTER_SLOT, str(folder), load_inplace=True))
            load_s = time.monotonic() - began
            await self._llm.update_weight_version(str(version))  # while it stands still: each token is tagged with what sampled it
            # Sampling requests get one without `load_inplace`, which would load the adapter again at every step.
            self._adapter = LoRARequest("policy", ADAPTER_SLOT, str(folder))
            self.version = version
        finally:
            await self._llm.resume_generation()
        return load_s

    async def _add_lora(self, request: LoRARequest) -> None:
        try:
            await self._llm.add_lora(request)
        except EngineDeadError:
            raise
        except Exception as error:
            raise AdapterError(f"vLLM refuses the adapter in {request.lora_path}: {error}") from None

    async def _wait_for_first_tokens(self) -> None:
        """Wait until vLLM has read every submitted prompt, `FIRST_TOKENS_WAIT_S` at most."""
        states = self._llm.output_processor.request_states
        deadline = time.monotonic() + FIRST_TOKENS_WAIT_S
        while time.monotonic() < deadline and not self.dead:
            # a request is in `_running` at once and in `states` a little later: while `states` is shorter, one is on its way into vLLM
            prefilling = sum(state.is_prefilling for state in states.values())
            if not prefilling and len(states) >= len(self._running):
                return
            await asyncio.sleep(0.001)

    async def _submit(self, job: SamplingJob) -> tuple[str, RequestOutputCollector]:
        sampling = job.sampling
        params = SamplingParams(
            max_tokens=sampling.max_completion_length,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=job.seed if sampling.temperature > 0 else None,
            stop_token_ids=self._stop_token_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return await self._add(job.token_ids, params, sampling.cache_salt)

    async def _add(self, token_ids: Sequence[int], params: SamplingParams, cache_salt: str = "") -> tuple[str, RequestOutputCollector]:
        if self._adapter is None:
            raise RolloutError("the engine has no adapter yet, and never samples without one; call load_adapter first")
        name = str(next(self._names))
        self._running.add(name)
        try:
            prompt = tokens_input(list(token_ids), cache_salt=cache_salt or None)
            return name, await self._llm.add_request(name, prompt, params, lora_request=self._adapter)
        except EngineDeadError:
            self._running.discard(name)
            raise self._death() from None
        except BaseException:
            self._running.discard(name)
            raise

    async def _output(self, name: str, collector: RequestOutputCollector) -> RequestOutput:
        try:
            output = await collector.get()
        except asyncio.CancelledError:
            await self._llm.abort(collector.request_id, internal=True)
            raise
        except EngineDeadError:
            raise self._death() from None
        finally:
            self._running.discard(name)
        assert isinstance(output, RequestOutput)
        return output

    async def _finish(self, name: str, collector: RequestOutputCollector) -> Completion:
        output = (await self._output(name, collector)).outputs[0]
        self._finished_tokens += len(output.token_ids)
        return self._completion(output)

    def _completion(self, output: CompletionOutput) -> Completion:
        """Convert vLLM's output. A stop token of ours (`model.eos_token`) stays in the token ids, but not in the text."""
        logprobs = output.logprobs.logprobs if isinstance(output.logprobs, FlatLogprobs) else []
        token_ids = tuple(output.token_ids)
        if output.finish_reason not in ("stop", "length") or len(logprobs) != len(token_ids):
            raise RolloutError(
                f"a completion ended with {output.finish_reason!r} after {len(token_ids)} tokens, not by itself or at its limit, and is not used"
            )
        reason: Literal["stop", "length"] = "stop" if output.finish_reason == "stop" else "length"
        ended = token_ids[-1:] == tuple(self._stop_token_ids)
        return Completion(
            token_ids=token_ids,
            logprobs=tuple(logprobs),
            spans=tuple(VersionSpan(int(span.version), span.start, span.end) for span in output.weight_versions or ()),
            finish_reason=reason,
            text=self._tokenizer.decode(token_ids[:-1] if ended else token_ids, skip_special_tokens=True),
        )

    def _death(self) -> RolloutError:
        return RolloutError("its vLLM engine process died; its running completions must be sampled again on another worker")
