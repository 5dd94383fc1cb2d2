"""The report of a run: what it says, and that it says it of any run directory, whole or not."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.evaluation.measurement import Evaluation
from cluster.evaluation.statistics import wilson
from cluster.files.metrics_file import truncate
from cluster.output.run_dir import NOTHING_LEARNED, RunDirectory
from cluster.report import leave_report, write_report
from cluster.report.drawing import BOTTOM, LEFT, RIGHT, TOP
from configs.contracts.errors import RunDirectoryError
from tests import REPOSITORY
from tests.cluster.pages import Page
from tests.cluster.run_directories import change_metrics, log_completions, log_steps, make_run, metrics_of

LARGEST_BYTES = 2_000_000
HOSTILE = "</script></svg></pre><script>alert(1)</script><img src=\"http://evil/x\" onerror='alert(2)'> {{ 7*7 }} & \"'"


def page_of(*folders: Path) -> Page:
    return Page(write_report(folders, folders[0].parent / "page.html").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tidy")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


def points(path: str | None) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path or "")]


def test_the_top_of_the_page_says_what_came_of_the_run(page: Page) -> None:
    (title,), (heading,) = page.all("title"), page.all("h1")
    assert (title.text, heading.text) == ("tidy – rollcast report", "tidy")
    assert "builtin:tiny_qwen2 trained by GRPO on builtin:addition finished · 1 min 42 s wall time" in page.text
    assert "25.0% → 80.0%" in page.text
    assert "95 % intervals 8.1% to 55.8%, 49.0% to 94.3%; greedy, on 10 prompts that are not trained on" in page.text
    assert "steps 60 of 60 training time 2 min 0 s 2 s a step completions per second 64" in page.text
    assert "learner idle 25% of the time, waiting for groups engines idle 25%" in page.text
    assert "adapter sync 0.05 s median time to bring a new adapter to every engine; 95th percentile 0.07 s" in page.text


@pytest.mark.parametrize(("share", "count", "low", "high"), [(0.8, 10, 0.4902, 0.9433), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)])
def test_intervals_are_wilsons(share: float, count: int, low: float, high: float) -> None:
    """Reference: R's prop.test(correct=FALSE), printed to four places."""
    assert wilson(share, count) == pytest.approx((low, high), abs=5e-5)


def test_there_is_a_chart_of_everything_that_was_logged(page: Page) -> None:
    assert list(page.charts) == [
        "Reward", "Parts of the reward", "Accuracy", "Spread within groups", "Groups of equal rewards", "Entropy, nats", "Gradient norm",
        "Learning rate", "Loss", "Clipped tokens", "Length, tokens", "Cut off at the limit", "Staleness, steps",
        "Log-probability difference, nats", "Importance ratio", "Learner's time", "Engines' time", "Reward workers' time", "Step time, s",
        "Tokens per second", "Tokens trained on", "Adapter sync, s", "Groups under way", "Groups sampled again", "Fill of the packed rows",
    ]  # fmt: skip
    assert set(page.lines("Parts of the reward")) == {"accuracy", "format", "tag_count"}
    assert set(page.lines("Length, tokens")) == {"mean", "shortest", "longest"}
    held_out = [each for each in page.charts["Accuracy"].iter("circle") if each.get("class") == "mark"]
    assert len(held_out) == 2, "before and after training"


def test_a_line_is_the_smoothed_metric_at_its_place(page: Page) -> None:
    reward = page.lines("Reward")["reward"]
    assert list(reward) == list(range(1, 61))
    # 60 steps: windows of 3. Drawn with four digits.
    assert reward[30] == pytest.approx(1.5, abs=5e-4)
    assert reward[1] == pytest.approx(1 + 1.5 / 60, abs=5e-4), "the mean of the two steps there are"
    entropy = points(next(path.get("d") for path in page.charts["Cut off at the limit"].iter("path") if path.get("class") == "line"))
    values = page.lines("Cut off at the limit")["share"]
    for (x, y), (step, value) in zip(entropy, values.items(), strict=True):
        assert x == pytest.approx(LEFT + (RIGHT - LEFT) * (step - 1) / 59, abs=0.06), "drawn with one decimal"
        assert y == pytest.approx(BOTTOM + (TOP - BOTTOM) * value, abs=0.1), "drawn with one decimal, of a value with four digits"


def test_shares_of_time_add_up(page: Page) -> None:
    """Of 2 s a step the learner trains 1 and waits 0.5, engines sample 1.5, one reward worker grades 0.5."""
    expected = {
        "Learner's time": {"training": 0.5, "waiting for groups": 0.25, "other": 0.25},
        "Engines' time": {"sampling": 0.75, "idle": 0.25},
        "Reward workers' time": {"grading": 0.25, "idle": 0.75},
    }
    for chart, shares in expected.items():
        assert {name: set(bars.values()) for name, bars in page.lines(chart).items()} == {name: {share} for name, share in shares.items()}
        assert len(page.lines(chart)[next(iter(shares))]) == 48


def test_the_seconds_of_several_reward_workers_are_shares_of_all_their_time(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", steps=9, settings=["rewards.num_workers=4"]))
    assert set(page.lines("Reward workers' time")["grading"].values()) == {0.0625}, "0.5 s of 4 x 2 s"


def test_rewards_outcomes_accounting_and_settings_are_shown(page: Page) -> None:
    assert "accuracy 1 0.0583 0.958 0.25 → 0.8 scored 95 (95.0%), timeout 5 (5.0%)" in page.text
    assert "format 0.5 0.0583 0.958 1 → 1 scored 100 (100.0%)" in page.text
    assert [each.text for each in page.all("span", "bad")] == ["timeout 5 (5.0%)"]
    assert "drawn 1,234 trained 1,200 filtered 34 filtered by reason equal rewards 34" in page.text
    assert "reading data 2 s training 1 min 40 s" in page.text
    folded = [each.text for each in page.all("details") if "config.yaml" in each.text]
    assert len(folded) == 1 and "num_generations: 8" in folded[0]


def test_the_best_and_worst_completions_of_first_middle_and_last_step_are_shown(page: Page) -> None:
    assert [heading.text for heading in page.all("h3")] == ["Step 1", "Step 30", "Step 60"]
    for group, step in zip(page.all("article"), (1, 30, 60), strict=True):
        assert re.findall(r"completion (\d) of step (\d+)", group.text) == [(str(best), str(step)) for best in (7, 6, 1, 0)]
        assert "4 of 8 completions" in group.text
        assert f"gold of step {step}" in group.text
        assert "2+2?" in group.text
        assert "2 tokens, policy version 0" in " ".join(group.text.split())


def test_a_chart_says_in_words_what_it_shows(page: Page) -> None:
    for title, chart in page.charts.items():
        assert chart.get("role") == "img" and chart.get("aria-label", "").startswith(title)
    assert page.charts["Entropy, nats"].get("aria-label") == (
        "Entropy, nats, steps 1 to 60: entropy 0.992 at first, 0.5 at last, between 0.5 and 0.992"
    )
    tables = page.all("table")
    assert tables and all("<th scope" in page.source for _ in tables)
    assert len(page.all("caption")) == len(tables)
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"


def test_the_page_loads_nothing(page: Page) -> None:
    addresses = [value for each in page.elements for name, value in each.attributes.items() if name in ("src", "href", "action", "data")]
    assert addresses and all(address.startswith("#") or address == "data:," for address in addresses)
    style = "".join(each.text for each in page.all("style"))
    assert "url(" not in style and "@import" not in style
    assert "://" not in style + "".join(each.text for each in page.all("script"))
    policies = [each.attributes["content"] for each in page.all("meta") if each.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none';") and "unsafe" not in policies[0]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=3, exit_reason=f"failed: {HOSTILE}", settings=[f"data.system_prompt={json.dumps(HOSTILE)}"])
    log_completions(folder, 2, [HOSTILE, HOSTILE * 30, "\x00\x1b[31m\u202e right to left"], reward=HOSTILE, gold=HOSTILE)
    log_steps(folder, {step: {HOSTILE: 1.0, f"rewards/{HOSTILE}/mean": 0.5, "[*]?": 2.0} for step in (4, 5)})
    page = page_of(folder)
    assert len(page.all("script")) == 1 and not page.all("img")
    assert not [name for each in page.elements for name in each.attributes if name.startswith("on")]
    texts = [each.text for each in page.all("pre")]
    assert texts.count(HOSTILE) == 2, "the completion, and the row of the data set"
    assert HOSTILE * 30 in texts, "whole, folded"
    assert "␀␛[31m\u202e right to left" in texts
    assert list(page.lines(HOSTILE)) == [HOSTILE] and list(page.lines("[*]?")["[*]?"].values()) == [2.0, 2.0]
    assert HOSTILE in page.lines("Parts of the reward")
    assert f"failed: {HOSTILE}" in page.text


def test_long_texts_are_folded_and_cut_in_the_middle(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=2)
    log_completions(folder, 2, ["short", "begins " + "word " * 10_000 + " ends", "line\n" * 20])
    page = page_of(folder)
    folded = [each.text for each in page.all("details")]
    cut = [text for text in folded if "begins word" in text]
    assert len(cut) == 1 and cut[0].rstrip().endswith(" ends") and "46,012 characters left out" in cut[0] and len(cut[0]) < 5000
    assert any(text.count("line\n") == 20 for text in folded)
    assert not any("short" in text for text in folded)


def test_ten_thousand_steps_make_a_small_file_that_hides_no_spike(tmp_path: Path) -> None:
    folder, steps = tmp_path / "long", 10_000
    make_run(folder, steps=2)
    rows = {step: metrics_of(step, steps) for step in range(3, steps + 1)}
    rows[5_001]["entropy"] = 7.0
    with (folder / "metrics.jsonl").open("a") as file:  # as the sink writes it; its event files would take a minute
        file.writelines(json.dumps({"step": step, "time": 2.0 * step, **metrics}) + "\n" for step, metrics in rows.items())
    log_completions(folder, 2, ['"<&' * 3000] * 8, gold='"<&' * 3000)
    page = page_of(folder)
    assert len(page.source.encode()) < LARGEST_BYTES
    line = page.lines("Entropy, nats")["entropy"]
    assert len(line) == 240 and min(line) == 1 and max(line) == steps
    assert max(line.values()) < 1.1
    chart = page.charts["Entropy, nats"]
    (band,) = [points(path.get("d")) for path in chart.iter("path") if path.get("class") == "range"]
    assert min(y for _, y in band) == TOP, "the spike is the highest point of the axis"


def test_many_runs_make_a_small_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=300)
    copies = [tmp_path / f"copy {index}" for index in range(20)]
    for copy in copies:
        copy.symlink_to(run)
    overlaid = page_of(*copies)
    assert len(overlaid.lines("Reward")) == 20
    assert len(overlaid.source.encode()) < LARGEST_BYTES


def test_values_that_are_not_finite_are_gaps_that_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, steps=2)
    values = {3: 0.1, 4: math.nan, 5: math.inf, 6: 0.3, 7: 1e300, 8: 0.5}
    log_steps(folder, {step: {"train/grad_norm": value, "kl": math.nan} for step, value in values.items()})
    page = page_of(folder)
    drawn = page.lines("Gradient norm")["before clipping"]
    assert [step for step, value in drawn.items() if math.isnan(value)] == [4, 5, 7]
    assert "before clipping: no finite number at 3 steps, first at step 4" in page.text
    chart = page.charts["Gradient norm"]
    (line,) = [path.get("d", "") for path in chart.iter("path") if path.get("class") == "line"]
    assert line.count("M") == 3, "before the gap, the lone step 6, and step 8"
    assert sum(path.get("class") == "lost" for path in chart.iter("path")) == 3
    assert "nan" not in page.source.split("<main>")[1].split('<section aria-labelledby="rewards">')[0].lower()
    assert not any(title.startswith("KL") for title in page.charts), "nothing finite to draw"


def test_where_nothing_was_measured_the_line_has_a_gap(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=2)
    log_steps(folder, {step: {"train/reward": 1.0, **({} if step in (4, 5) else {"train/accuracy": 0.5})} for step in range(3, 9)})
    page = page_of(folder)
    assert [step for step, value in page.lines("Accuracy")["sampled"].items() if math.isnan(value)] == [4, 5]
    assert "sampled: no finite number at 2 steps, first at step 4" in page.text


def test_what_is_no_accuracy_is_not_called_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=2, settings=["rewards.functions=[tag_count]"])
    for when, value in (("before", None), ("after", 0.004)):
        mean = {} if value is None else {"tag_count": value}
        found = Evaluation(
            accuracy=value, interval=(0.001, 0.007) if mean else None, rewards=mean, outcomes={"tag_count": {"scored": 4}}, prompts=4
        )
        (folder / f"evaluation_{when}.json").write_text(found.model_dump_json())
    page = page_of(folder)
    assert "held-out reward (tag_count) – → 0.004 95 % intervals 0.001 to 0.007; greedy, on 4 prompts" in page.text
    assert not [each for each in page.charts["Accuracy"].iter("circle") if each.get("class") == "mark"]


def test_a_run_that_learned_nothing_says_so_at_the_top(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=2, exit_reason=NOTHING_LEARNED)
    summary = json.loads((folder / "summary.json").read_text()) | {"nothing_learned": f"nothing was learned: {HOSTILE}"}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert [each.text for each in page_of(folder).all("p", "bad")] == [f"Nothing was learned: {HOSTILE}."]
    assert page_of(folder).all("span", "bad")[0].text == NOTHING_LEARNED


def test_a_hole_is_not_bridged_and_every_tenth_step_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, steps=2)
    log_steps(folder, {step: {"a": 1.0, **({"tenth": 1.0} if step % 10 == 0 else {})} for step in [*range(3, 30), *range(60, 90)]})
    page = page_of(folder)
    outline = {name: next(p.get("d", "") for p in page.charts[name].iter("path") if p.get("class") == "line") for name in ("a", "tenth")}
    assert (outline["a"].count("M"), outline["tenth"].count("M")) == (2, 1)


def test_a_spike_of_the_loss_does_not_flatten_its_curve(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, steps=2)
    log_steps(folder, {step: {"train/loss": 1000.0 if step == 50 else math.sin(step)} for step in range(3, 203)})
    page = page_of(folder)
    assert "1 value cut off at the frame, the farthest 1k" in page.text
    heights = [y for _, y in points(next(p.get("d") for p in page.charts["Loss"].iter("path") if p.get("class") == "raw"))]
    assert np.ptp(np.sort(heights)[2:-2]) > 30
    assert min(heights) == TOP and max(heights) <= BOTTOM


def test_a_resumed_run_shows_where_and_counts_every_start(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=40)
    truncate(folder / "metrics.jsonl", 30)
    log_steps(folder, {step: metrics_of(step, 40) | {"entropy": 0.125} for step in range(31, 41)})
    for step in range(31, 41):
        change_metrics(folder, step, time=4e9 + step)
    page = page_of(folder)
    assert "The run was interrupted before step 31 and resumed there" in page.text
    assert "training time 1 min 20 s" in page.text, "40 steps of 2 s, of which the last start took 10"
    assert sum(path.get("class") == "resumed" for path in page.charts["Reward"].iter("path")) == 1
    assert list(page.lines("Entropy, nats")["entropy"].values())[29:] == pytest.approx([0.625] + [0.125] * 10)


def test_of_a_step_that_was_written_twice_the_later_line_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=4)
    log_steps(folder, {3: {"entropy": 9.0}})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "entropy": 3')  # killed while writing
    assert page_of(folder).lines("Entropy, nats")["entropy"] == pytest.approx({1: 0.875, 2: 0.75, 3: 9.0, 4: 0.5})


def test_runs_are_overlaid_one_line_each(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a" / "run", steps=60)
    second = make_run(tmp_path / "b" / "run", steps=30, exit_reason="stopped by SIGTERM", settings=["seed=7", "learner.beta=0.01"])
    page = page_of(first, second, first)
    assert [heading.text for heading in page.all("h1")] == ["2 runs"]
    lines = page.lines("Reward")
    assert {name: max(line) for name, line in lines.items()} == {"a/run": 60, "b/run": 30}
    assert set(page.lines("Parts of the reward: format")) == {"a/run", "b/run"}
    assert set(page.lines("Learner's time")) == {"a/run", "b/run"}
    assert "Settings that differ setting a/run b/run learner.beta 0.0 0.01 learner.max_steps 60 30 seed 0 7 Learning" in page.text
    assert re.search(r"a/run builtin:tiny_qwen2 finished .* b/run builtin:tiny_qwen2 stopped by SIGTERM", page.text)
    assert len(page.all("article")) == 2, "of each the last step"


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "failed", "none") as directory:
        directory.write_summary({"exit_reason": "failed: DataError: no such file", "phase_s": {}})
    page = page_of(tmp_path / "failed")
    assert not page.charts
    for said in ("failed: DataError: no such file", "No step was logged", "No reward was logged", "No completions are stored"):
        assert said in page.text
    (tmp_path / "only").mkdir()
    log_steps(tmp_path / "only", {1: {"reward_std": 0.5}})
    page = page_of(tmp_path / "only")
    assert list(page.charts) == ["Spread within groups"], "one step, and no settings"
    assert "no end recorded" in page.text


def test_outcomes_of_a_run_without_summary_are_those_of_its_sampled_completions(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=9)
    (folder / "summary.json").write_text('{"exit_reason": "failed: LearnerError')
    log_completions(folder, 9, ["a", "b"], outcomes_G=["crashed", "scored"])
    page = page_of(folder)
    assert "Outcomes (of calling the reward) are of the completions stored on disk" in page.text
    assert "scored 17 (94.4%), crashed 1 (5.6%)" in page.text


def test_a_broken_file_of_completions_gives_way_to_its_neighbour(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=9)
    (folder / "completions" / "step-000009.parquet").write_bytes(b"PAR1 cut short")
    log_completions(folder, 8, ["neighbour", "other"])
    assert [heading.text for heading in page_of(folder).all("h3")] == ["Step 1", "Step 4", "Step 8"]


def test_a_run_that_goes_on_does_not_show_the_summary_of_an_earlier_start(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=9, exit_reason="stopped by SIGTERM")
    with RunDirectory.open(folder, "auto"):
        code = "import sys; from pathlib import Path; from cluster.report import write_report; write_report([Path(sys.argv[1])])"
        subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, check=True, timeout=60)
        page = Page((folder / "report.html").read_text())
        assert "still running" in page.text and "SIGTERM" not in page.text and "25.0% → –" in page.text
        assert "wall time" not in page.text and "Fate of every prompt" not in page.text
        assert leave_report(folder, print) == folder / "report.html"
        assert "stopped by SIGTERM" in (folder / "report.html").read_text(), "the run itself, at its end"


def test_a_report_that_cannot_be_written_is_said_and_fails_no_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=2)
    (folder / "report.html.tmp").mkdir()
    said: list[str] = []
    assert leave_report(folder, said.append) is None
    assert len(said) == 1 and said[0].startswith("report.html was not written (IsADirectoryError")
    with pytest.raises(RunDirectoryError, match=r"report.html cannot be written \(Is a directory\): name another file with --output"):
        write_report([folder])


def test_the_command_writes_into_the_run_or_where_it_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def report(*arguments: str | Path) -> str:
        return CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False).output

    other = make_run(tmp_path / "other", steps=2)
    assert report(other) == f"report: {other}/report.html\n"
    assert "<h1>other</h1>" in (other / "report.html").read_text()
    assert report(run, other) == "report: report.html\n"
    assert "<h1>2 runs</h1>" in (tmp_path / "report.html").read_text()
    report(run, "-o", tmp_path / "mine.html")
    assert "<h1>tidy</h1>" in (tmp_path / "mine.html").read_text()
    with pytest.raises(RunDirectoryError, match="nowhere holds no run"):
        report(tmp_path / "nowhere")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_stand_out_in_light_and_dark(page: Page) -> None:
    """WCAG 2.2: text at least 4.5 to 1 (1.4.3), graphics 3 to 1 (1.4.11)."""
    style = "".join(each.text for each in page.all("style"))
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    assert len(themes) == 3, "light, dark and print"
    for colours in themes:
        for name, least in [(f"c{index}", 3.0) for index in range(8)] + [
            (n, 4.5) for n in ("text", "faint", "link", "good", "bad", "neutral")
        ]:
            for ground in ("page", "card"):
                light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= least, (name, ground, colours)
