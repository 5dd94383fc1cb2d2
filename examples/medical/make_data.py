"""Make the data of the medical tutorial: `python examples/medical/make_data.py data/medical`.

Writes `train.jsonl` and `test.jsonl` with the columns of the guide's files, `question` and `answer`, and a `response` to imitate. A question
asks for a patient's daily dose, a sum that a model of 0.6 million parameters can learn in a minute. The responses come from a ward that
often forgets the carry. A model that imitates them is mediocre, and rewards can improve it.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

FORGOTTEN_CARRY_SHARE = 0.7
TEST_ROWS = 200


def response(first: int, second: int, *, carries: bool) -> str:
    """Write the working, units and then tens, in the guide's layout: `<think>7+5=12 1+2+1=4</think><answer>42</answer>` for 17 and 25."""
    units = first % 10 + second % 10
    carry = units // 10 if carries else 0
    tens = first // 10 + second // 10 + carry
    thought = f"{first % 10}+{second % 10}={units} {first // 10}+{second // 10}+{carry}={tens}"
    return f"<think>{thought}</think><answer>{tens}{units % 10}</answer>"


def rows(seed: int) -> list[dict[str, str]]:
    """Write every pair of doses from 10 to 99 mg, shuffled."""
    draw = random.Random(seed)
    made = [
        {
            "question": f"{first} mg at 8, {second} mg at 20: mg a day?",
            "answer": str(first + second),
            "response": response(first, second, carries=draw.random() >= FORGOTTEN_CARRY_SHARE),
        }
        for first in range(10, 100)
        for second in range(10, 100)
    ]
    draw.shuffle(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train.jsonl and test.jsonl are written")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = rows(arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", made[:TEST_ROWS]), ("train", made[TEST_ROWS:])):
        file = arguments.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8", newline="\n")
        print(f"{file}: {len(part)} rows")


if __name__ == "__main__":
    main()
