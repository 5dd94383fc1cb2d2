"""Run TRL's GRPOTrainer on the model, prompts and settings of a workload, and write the seconds of every step. `system.py` starts it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--reward", required=True)
    parser.add_argument("--max-completion-length", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    arguments = parser.parse_args()

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig  # pyright: ignore[reportMissingImports] - optional
    from trl.trainer.grpo_trainer import GRPOTrainer  # pyright: ignore[reportMissingImports]

    import rewards

    class StepClock(TrainerCallback):
        def __init__(self) -> None:
            self.ends_s = [time.monotonic()]

        def on_step_end(self, *_args: object, **_kwargs: object) -> None:
            self.ends_s.append(time.monotonic())

    rows = [json.loads(line) for line in arguments.data.read_text().splitlines()]
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": row["prompt"]}], "solution": row["solution"]} for row in rows])
    params: dict[str, Any] = {"answer_style": "answer_tag"} if arguments.reward == "accuracy" else {}
    reward = rewards.load(arguments.reward, **params)

    def graded(completions: list, **columns: object) -> list[float | None]:
        return reward(completions=completions, **columns)

    clock = StepClock()
    trainer = GRPOTrainer(
        model=str(arguments.model),
        reward_funcs=[graded],
        args=GRPOConfig(
            output_dir=str(arguments.out_dir),
            max_steps=arguments.steps,
            per_device_train_batch_size=128,
            num_generations=8,
            max_completion_length=arguments.max_completion_length,
            learning_rate=arguments.learning_rate,
            beta=0.0,
            loss_type="dapo",
            temperature=1.0,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1000,
        ),
        train_dataset=prompts,
        processing_class=AutoTokenizer.from_pretrained(arguments.model, padding_side="left"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[clock],
    )
    trainer.train()
    times_s = [end - start for start, end in zip(clock.ends_s, clock.ends_s[1:], strict=False)]
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    (arguments.out_dir / "step_times.json").write_text(json.dumps(times_s))


if __name__ == "__main__":
    main()
