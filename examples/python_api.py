"""rollcast from Python, cell by cell as in a notebook; in a few minutes on a CPU. docs/python.md explains each call."""

# %% Settings: a file that comes with rollcast, and what is to be different in it
from pathlib import Path

import rollcast

QUICKSTART = Path(rollcast.ROOT) / "configs" / "quickstart.yaml"
SMALL = [
    "learner.warm_start=null",
    "learner.train_batch_size=16",
    "actors.num_generations=4",
    "actors.max_completion_length=24",
    "data.eval_samples=8",
    "out_dir=runs/python_api",
]


# %% A reward is a function; it is sent to the processes that score. Prompts are chat messages here, and so are completions
def digits(completions, **columns):
    texts = [completion[0]["content"] for completion in completions]
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]


# %% Data are a list of dicts, with the columns that the rewards read
sums = [{"prompt": f"What is {a}+{b}?", "solution": str(a + b)} for a in range(10, 20) for b in range(10, 20)]


# %% A callback sees each step, and may end the run
def watch(step):
    print(f"step {step.step}: reward {step.metrics['train/reward']:.3f}")
    return rollcast.STOP if step.step == 2 else None


# %% Train
result = rollcast.train(QUICKSTART, overrides=SMALL, data=sums, rewards=[digits, "tag_count"], callbacks=[watch])

# %% The result
print(result.exit_reason, result.adapter, result.report)
print(result.metrics.column("train/reward"))

# %% Evaluate it again on the held-out prompts, with four completions each
(evaluation,) = rollcast.evaluate(result.out_dir, overrides=["evaluation.num_generations=4"])
print(evaluation.accuracy, evaluation.interval)
