"""Errors that cross process boundaries, all of one root.

Every error can be pickled (Ray serialises it), and names the role, the node and the remedy if they are known. None carries an object of
vLLM, torch or DeepSpeed: unpickling it would import that library in the caller.
"""

from __future__ import annotations


class RollcastError(Exception):
    """The root of all errors that rollcast raises on purpose.

    Args:
        message: the value, the rule and the remedy, in that order, in at most two sentences.
        role: the part of the system that failed ("rollout 1", "learner rank 0"), if known.
        node: the node on which it ran, if known.
        log_tail: the last lines of the failed process's log, if it is dead.
    """

    exit_code = 1

    def __init__(self, message: str, *, role: str = "", node: str = "", log_tail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.role = role
        self.node = node
        self.log_tail = log_tail

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.role, self.node, self.log_tail))

    def __str__(self) -> str:
        where = " on ".join(part for part in (self.role, self.node and f"node {self.node}") if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}\n--- last lines of its log ---\n{self.log_tail}" if self.log_tail else text


def unwrapped(error: BaseException) -> BaseException:
    """The error that another process raised, where `error` is Ray's wrapping of it; else `error` itself.

    Ray's wrappers are known by their attribute `cause`, so that this file needs no Ray.
    """
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _rebuild(kind: type[RollcastError], message: str, role: str, node: str, log_tail: str) -> RollcastError:
    return kind(message, role=role, node=node, log_tail=log_tail)


class ConfigError(RollcastError, ValueError):
    """The configuration cannot work; nothing was started."""

    exit_code = 2


class DataError(RollcastError, ValueError):
    """A data set is missing, empty, or does not fit the configuration; nothing was started."""

    exit_code = 2


class PlacementError(RollcastError):
    """The cluster does not have the resources that the configuration asks for."""

    exit_code = 2


class RayLostError(RollcastError):
    """A process of Ray itself died, without which nothing of the run can go on."""


class RunDirectoryError(RollcastError):
    """The run directory cannot be written, or another live run holds it."""

    exit_code = 2


class RolloutError(RollcastError):
    """A rollout worker or its engine failed; the pool gives its requests to another worker."""


class PoisonPromptError(RolloutError):
    """An engine refuses a prompt, or two engines died while they had it; the prompt is quarantined."""


class AdapterError(RollcastError):
    """An adapter is not finite, does not match its hash, or does not reproduce its canary."""


class NoRoomError(AdapterError):
    """A node has room for an adapter neither in shared memory nor on its disk. No other engine there would have any."""


class RewardError(RollcastError):
    """A reward function broke its contract, and the configuration says to stop then."""


class SandboxError(RewardError):
    """This host cannot jail the model's code, so no code is run."""


class LearnerError(RollcastError):
    """A learner rank failed; the learner must be started again from the last checkpoint."""


class NonFiniteError(LearnerError):
    """Loss or gradient was not finite too many steps in a row."""


class CheckpointError(RollcastError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class HubError(RollcastError):
    """The hub cannot be reached, or does not allow this token to do what was asked."""


class StoppedError(RollcastError):
    """A signal ended the run before it could write a checkpoint, or a second signal prevented it."""

    exit_code = 130


class AccountingError(RollcastError):
    """The ledger of prompts does not balance. This is a bug, and the run must not go on."""
