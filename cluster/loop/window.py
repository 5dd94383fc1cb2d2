"""The window: limits the groups under way, refuses stale ones, and accounts for every prompt. Pure rules, no process.

Words. A *step* is one optimizer step; it trains `groups_per_step` (P) groups. `steps_taken` counts the batches handed to the
learner, so the next batch trains on policy version `steps_taken`. A group sampled under version v and trained then is
`steps_taken - v` steps stale. `max_staleness` (S) bounds that.

Admission. With `engine_version` the version that every engine has confirmed, at most

    P x (S + 1 - (steps_taken - engine_version))

groups may be outstanding (in flight, scoring or ready). A group admitted as the n-th outstanding one is trained after at most
floor((n - 1) / P) further batches, when groups are trained in the order of admission, so its staleness is at most S: the
proof is in docs/staleness.md. The order can differ (a long completion is overtaken), so the bound is enforced where groups
are consumed, in `take`: nothing older than S is ever handed out under `on_stale="drop"`.

Example (P=2, S=1): at the start four groups are admitted. `take()` returns two when two are ready; until the engines confirm
version 1, `room(engine_version=0)` is 2 x (1 + 1 - 1) - 2 = 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, TypedDict

from configs.contracts.errors import AccountingError
from configs.contracts.records import PromptId, ScoredGroup


class AccountingTotals(TypedDict):
    """`accounting` in `summary.json`."""

    drawn: int
    trained: int
    filtered: int
    dropped: int
    ready: int
    in_flight: int
    filtered_by_reason: dict[str, int]
    dropped_by_reason: dict[str, int]


class WindowSnapshot(TypedDict):
    """The ledger as a checkpoint stores it. Prompts are named by id, with their attempt."""

    steps_taken: int
    drawn: int
    trained: int
    reissued_stale: int
    filtered: dict[str, int]
    dropped: dict[str, int]
    in_flight: list[tuple[str, int]]
    """In the order of admission."""
    again: list[tuple[str, int]]
    ready: list[str]


@dataclass(frozen=True, slots=True)
class Accounting:
    """The fate of every prompt drawn. `filtered` and `dropped` are by reason."""

    drawn: int
    trained: int
    filtered: Mapping[str, int]
    dropped: Mapping[str, int]
    ready: int
    in_flight: int

    def check(self) -> None:
        """Raise `AccountingError` unless drawn = trained + filtered + dropped + ready + in flight."""
        found = self.trained + sum(self.filtered.values()) + sum(self.dropped.values()) + self.ready + self.in_flight
        if found != self.drawn:
            raise AccountingError(
                f"{self.drawn} prompts were drawn but {found} are accounted for ({asdict(self)}): drawn = trained + filtered + dropped + "
                "ready + in flight must hold; this is a bug in rollcast, please report it with this line"
            )

    def as_json(self) -> AccountingTotals:
        """Totals for `summary.json`, with the reasons beside them."""
        return {
            "drawn": self.drawn,
            "trained": self.trained,
            "filtered": sum(self.filtered.values()),
            "dropped": sum(self.dropped.values()),
            "ready": self.ready,
            "in_flight": self.in_flight,
            "filtered_by_reason": dict(self.filtered),
            "dropped_by_reason": dict(self.dropped),
        }


@dataclass(slots=True)
class Window:
    """The ledger of a run and the rule of admission. One per run, used by one event loop."""

    groups_per_step: int
    max_staleness: int
    on_stale: Literal["drop", "keep"] = "drop"
    total_steps: int = 1
    filter_zero_variance: bool = False
    max_num_gen_batches: int | None = None
    """Batches of groups that may be filtered for one step."""
    steps_taken: int = 0
    drawn: int = 0
    trained: int = 0
    reissued_stale: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    filtered_for_step: int = 0
    """Groups filtered since the last batch was taken, or since the run was started again."""
    dropped: Counter[str] = field(default_factory=Counter)
    _in_flight: dict[PromptId, int] = field(default_factory=dict)
    """Prompts being sampled or scored, with their attempt, in the order of admission."""
    _ready: dict[PromptId, ScoredGroup] = field(default_factory=dict)
    _again: dict[PromptId, int] = field(default_factory=dict)
    """Prompts to be sampled again, with their next attempt; they count as in flight."""
    _order: dict[PromptId, int] = field(default_factory=dict)
    """Admission number of every outstanding prompt."""
    _admitted: int = 0
    _learning: dict[PromptId, ScoredGroup] = field(default_factory=dict)
    """Groups handed to the learner whose step is not finished; they count as ready."""

    @property
    def outstanding(self) -> int:
        """Groups admitted and not yet handed to the learner."""
        return len(self._in_flight) + len(self._ready)

    @property
    def ready(self) -> int:
        """Groups that could be trained now."""
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def room(self, engine_version: int) -> int:
        """Count the groups that may be admitted now.

        Args:
            engine_version: the policy version that every engine has confirmed.
        """
        lag = self.steps_taken - engine_version
        capacity = self.groups_per_step * (self.max_staleness + 1 - lag)
        still_needed = self.groups_per_step * (self.total_steps - self.steps_taken)
        if self.max_staleness == 0 and self._in_flight:
            # A synchronous run admits its prompts as one gang, so that what is sampled together never depends on timing.
            return 0
        return max(0, min(capacity, still_needed) - self.outstanding)

    def to_reissue(self) -> tuple[PromptId, int] | None:
        """The next prompt to sample again, and its attempt. Call `admit` with it."""
        return next(iter(self._again.items()), None)

    def admit(self, prompt_id: PromptId) -> int:
        """Enter a prompt as in flight; returns its attempt. A prompt that was to be re-issued is not drawn again."""
        if prompt_id in self._in_flight or prompt_id in self._ready or prompt_id in self._learning:
            raise AccountingError(
                f"prompt {prompt_id} is outstanding already: a prompt is drawn once; this is a bug in rollcast, please report it"
            )
        attempt = self._again.pop(prompt_id, None)
        if attempt is None:
            self.drawn += 1
            attempt = 0
        self._in_flight[prompt_id] = attempt
        self._order[prompt_id] = self._admitted
        self._admitted += 1
        return attempt

    def add(self, group: ScoredGroup) -> bool:
        """Enter a scored group. False when it was delivered before, or is of an attempt that was given up."""
        prompt_id = group.summary.prompt_id
        if prompt_id not in self._in_flight:
            return False
        del self._in_flight[prompt_id]
        if self.filters(group):
            self._forget(prompt_id)
            self.filtered["zero_variance"] += 1
            self.filtered_for_step += 1
        else:
            self._ready[prompt_id] = group
        return True

    def filters(self, group: ScoredGroup) -> bool:
        """Tell whether a group is kept from training, because it would teach nothing."""
        return self.filter_zero_variance and group.scores.zero_variance

    @property
    def filters_in_vain(self) -> bool:
        """True if so many groups were filtered for this step that there is no hope for it."""
        return self.max_num_gen_batches is not None and self.filtered_for_step >= self.max_num_gen_batches * self.groups_per_step

    def drop(self, prompt_id: PromptId, reason: str) -> None:
        """Give a prompt up for good."""
        if self._in_flight.pop(prompt_id, None) is None:
            return
        self._forget(prompt_id)
        self.dropped[reason] += 1

    def staleness(self, group: ScoredGroup) -> int:
        """Optimizer steps between the oldest token of the group and the step that would train on it now."""
        return self.steps_taken - group.summary.min_policy_version

    def take(self) -> list[ScoredGroup] | None:
        """The next batch, oldest admission first, or None while there are too few groups. Judges staleness."""
        if self.on_stale == "drop":
            self._give_up_stale()
        if len(self._ready) < self.groups_per_step:
            return None
        chosen = sorted(self._ready, key=self._order.__getitem__)[: self.groups_per_step]
        batch = [self._ready.pop(prompt_id) for prompt_id in chosen]
        for group in batch:
            self._learning[group.summary.prompt_id] = group
        self.steps_taken += 1
        self.filtered_for_step = 0
        return batch

    def finish_step(self) -> None:
        """The step that `take` handed out is done: its groups are trained."""
        self.trained += len(self._learning)
        for prompt_id in self._learning:
            self._forget(prompt_id)
        self._learning.clear()

    def _give_up_stale(self) -> None:
        for prompt_id, group in list(self._ready.items()):
            if self.staleness(group) > self.max_staleness:
                del self._ready[prompt_id]
                self._forget(prompt_id)
                self._again[prompt_id] = group.summary.attempt + 1
                self.reissued_stale += 1

    def _forget(self, prompt_id: PromptId) -> None:
        self._order.pop(prompt_id, None)

    def accounting(self) -> Accounting:
        """The ledger, checked."""
        accounting = Accounting(
            drawn=self.drawn,
            trained=self.trained,
            filtered=dict(self.filtered),
            dropped=dict(self.dropped),
            ready=len(self._ready) + len(self._learning),
            in_flight=len(self._in_flight) + len(self._again),
        )
        accounting.check()
        return accounting

    def snapshot(self) -> WindowSnapshot:
        """The ledger as JSON. Ready groups are named by id; the checkpoint stores their bodies beside it."""
        self.accounting()
        in_admission_order = sorted(self._in_flight, key=self._order.__getitem__)
        return {
            "steps_taken": self.steps_taken,
            "drawn": self.drawn,
            "trained": self.trained,
            "reissued_stale": self.reissued_stale,
            "filtered": dict(self.filtered),
            "dropped": dict(self.dropped),
            "in_flight": [(str(prompt_id), self._in_flight[prompt_id]) for prompt_id in in_admission_order],
            "again": [(str(prompt_id), attempt) for prompt_id, attempt in self._again.items()],
            "ready": [str(group.summary.prompt_id) for group in self.ready_groups()],
        }

    def ready_groups(self) -> list[ScoredGroup]:
        """Finished groups not yet trained, oldest admission first."""
        return [self._ready[prompt_id] for prompt_id in sorted(self._ready, key=self._order.__getitem__)]

    def restore(self, snapshot: WindowSnapshot, ready: list[ScoredGroup]) -> None:
        """Go on from a snapshot. What was in flight is sampled again under the same attempt; `ready` holds the stored groups.

        A group of the snapshot that is not in `ready` is sampled again as well.
        """
        self.steps_taken = snapshot["steps_taken"]
        self.drawn = snapshot["drawn"]
        self.trained = snapshot["trained"]
        self.reissued_stale = snapshot["reissued_stale"]
        self.filtered = Counter(snapshot["filtered"])
        self.dropped = Counter(snapshot["dropped"])
        self._in_flight, self._ready, self._learning, self._order, self._admitted = {}, {}, {}, {}, 0
        stored = {str(group.summary.prompt_id): group for group in ready}
        lost = [(name, 0) for name in snapshot["ready"] if name not in stored]
        self._again = {PromptId.parse(name): attempt for name, attempt in [*lost, *snapshot["in_flight"], *snapshot["again"]]}
        for name in snapshot["ready"]:
            if name in stored:
                prompt_id = PromptId.parse(name)
                self._ready[prompt_id] = stored[name]
                self._order[prompt_id] = self._admitted
                self._admitted += 1
        self.accounting()
