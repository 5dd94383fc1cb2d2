"""Measure what grading costs: `python benchmarks/rewards.py [--seconds 5] [--groups 300]`. No Ray, no model.

Throughput of `accuracy`, in completions a second, for groups of 16 whose answers are integers, fractions, symbolic, or symbolic
and wrong; every completion is a thousand characters of working and a box.

    direct      Open-R1's accuracy reward as a plain function in one process: parse the gold, parse the answer, verify, under
                math-verify's own SIGALRM time-outs
    graders     one grader process, of which a reward worker has several: it can be killed, and its deadline is kept from outside

Each is measured twice: with 16 different answers a group (only the gold can be cached), and with four, as sampled groups have. Seconds are
wall seconds with one process grading. The last column is completions a core-second, all processes counted.

Latency of a group of 16 is the wall time from handing it over to its scores, with two graders and two groups in flight, where 1 % of the
answers never end (`\\boxed{\\sum_{k=1}^{10^{9}} k^{k}}`).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder has a file of the same name as the package

from rewards.convention.group_input import GroupInput  # noqa: E402
from rewards.grading.graders import Graders  # noqa: E402

GROUP_SIZE = 16
WORKING = "We write the condition as an equation, move everything to one side, and simplify it step by step until one term is left. " * 8
HANG = "\\boxed{\\sum_{k=1}^{10^{9}} k^{k}}"


@dataclass(frozen=True)
class Kind:
    """Golds and answers of one difficulty: `answer(n, k)` is the k-th spelling, or the k-th wrong answer, to `gold(n)`."""

    name: str
    gold: Callable[[int], str]
    answer: Callable[[int, int], str]


KINDS = (
    Kind("integer", lambda n: str(n), lambda n, k: str(n) + "." + "0" * k if k else str(n)),
    Kind("fraction", lambda n: f"\\frac{{{n}}}{{7}}", lambda n, k: f"\\frac{{{n * (k + 1)}}}{{{7 * (k + 1)}}}"),
    Kind("symbolic", lambda n: f"2\\sqrt{{{n}}}+x", lambda n, k: f"x+{k}+2\\sqrt{{{n}}}-{k}"),
    Kind("symbolic, wrong", lambda n: f"2\\sqrt{{{n}}}+x", lambda n, k: f"x+{k + 1}+2\\sqrt{{{n}}}"),
)


def groups_of(kind: Kind, answers_per_group: int, seed: int) -> Iterator[GroupInput]:
    """Yield groups without end, each with a new gold."""
    draw = random.Random(seed)
    while True:
        n = draw.randrange(2, 10**6)
        texts_G = [f"{WORKING}\nSo the answer is \\boxed{{{kind.answer(n, k % answers_per_group)}}}." for k in range(GROUP_SIZE)]
        yield GroupInput("p", texts_G, [], {"solution": f"${kind.gold(n)}$"}, 0)


def direct(groups: Iterator[GroupInput], seconds: float) -> tuple[float, float]:
    """Completions a second of wall time and of processor time."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    extraction = LatexExtractionConfig(
        normalization_config=NormalizationConfig(basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
    done, started_s, started_cpu_s = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started_s < seconds:
        group = next(groups)
        for text in group.texts_G:
            gold = parse(str(group.columns["solution"]), extraction_mode="first_match")
            answer = parse(text, extraction_config=[extraction], extraction_mode="first_match")
            verify(gold, answer)
        done += GROUP_SIZE
    return done / (time.perf_counter() - started_s), done / (time.process_time() - started_cpu_s)


async def through_graders(groups: Iterator[GroupInput], seconds: float) -> tuple[float, float]:
    """Completions a second through one grader process, by wall time and by processor time."""
    graders = await _start(count=1, timeout_s=10.0)
    try:
        for _ in range(3):
            await graders.grade(next(groups))
        done, started_s, started_cpu_s = 0, time.perf_counter(), _cpu_s(graders)
        while time.perf_counter() - started_s < seconds:
            await graders.grade(next(groups))
            done += GROUP_SIZE
        return done / (time.perf_counter() - started_s), done / (_cpu_s(graders) - started_cpu_s)
    finally:
        await graders.close()


async def _start(count: int, timeout_s: float) -> Graders:
    return await Graders.start([("accuracy", {})], count=count, timeout_s=timeout_s, memory_limit_bytes=4 << 30, cwd=Path.cwd())


def _cpu_s(graders: Graders) -> float:
    """Processor seconds of this process, the warden and its graders."""
    wardens = [psutil.Process(pid) for pid in graders.pids()]
    processes = [psutil.Process(), *wardens, *(child for warden in wardens for child in warden.children(recursive=True))]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


@dataclass
class Latencies:
    """Latencies of groups, in seconds."""

    all_groups: list[float]
    without_hang: list[float]
    beyond_deadlines: list[float]
    """Time of the groups with hangs, less the deadlines that ran out."""
    replaced: int = 0


async def latencies(count: int, timeout_s: float, hang_share: float) -> Latencies:
    """Grade `count` groups, two at a time."""
    graders = await _start(count=2, timeout_s=timeout_s)
    groups, draw = groups_of(KINDS[0], 4, seed=1), random.Random(2)
    found = Latencies([], [], [])
    waiting = iter(range(count))

    async def work() -> None:
        for _ in waiting:
            group = next(groups)
            hangs = [index for index in range(GROUP_SIZE) if draw.random() < hang_share]
            for index in hangs:
                group.texts_G[index] = f"{WORKING}{HANG}"
            started_s = time.perf_counter()
            (report,) = await graders.grade(group)
            taken_s = time.perf_counter() - started_s
            assert [report.outcomes[index] for index in hangs] == ["timeout"] * len(hangs)
            assert report.outcomes.count("scored") == GROUP_SIZE - len(hangs)
            found.all_groups.append(taken_s)
            if hangs:
                found.beyond_deadlines.append(taken_s - timeout_s * len(hangs))
            else:
                found.without_hang.append(taken_s)

    try:
        await asyncio.gather(work(), work())
        found.replaced = graders.replaced
        return found
    finally:
        await graders.close()


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.add_argument("--groups", type=int, default=300, help="groups whose latency is taken (default 300)")
    parser.add_argument("--timeout-s", type=float, default=1.0, help="rewards.timeout_s of the latency part (default 1)")
    arguments = parser.parse_args()
    console = Console()

    table = Table(title="accuracy: completions a second")
    for heading in ("answers", "different", "direct", "graders", "ratio", "graders, a core-second"):
        table.add_column(heading, justify="left" if heading == "answers" else "right")
    for kind in KINDS:
        for answers_per_group in (GROUP_SIZE, 4):
            plain, _ = direct(groups_of(kind, answers_per_group, 0), arguments.seconds)
            ours, a_core_second = asyncio.run(through_graders(groups_of(kind, answers_per_group, 0), arguments.seconds))
            table.add_row(
                kind.name, str(answers_per_group), f"{plain:,.0f}", f"{ours:,.0f}", f"{ours / plain:.1f}", f"{a_core_second:,.0f}"
            )
    console.print(table)

    table = Table(title=f"latency of a group of {GROUP_SIZE}, two graders, deadline {arguments.timeout_s:g} s (ms)")
    for heading in (
        "answers that hang",
        "p50",
        "p99",
        "without a hang: p50",
        "p99",
        "with: beyond the deadlines, p50",
        "p99",
        "graders replaced",
    ):
        table.add_column(heading, justify="right")
    for hang_share in (0.0, 0.01):
        found = asyncio.run(latencies(arguments.groups, arguments.timeout_s, hang_share))
        lists = (found.all_groups, found.without_hang, found.beyond_deadlines)
        cells = [f"{1e3 * percentile(values, share):.1f}" if values else "-" for values in lists for share in (0.5, 0.99)]
        table.add_row(f"{hang_share:.0%}", *cells, str(found.replaced))
    console.print(table)


if __name__ == "__main__":
    main()
