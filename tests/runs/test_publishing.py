"""Test a whole run that pushes to a hub, reports to W&B and prints completions.

The hub holds back the first upload until the last step is logged. This shows that training does not wait for an upload.
"""

from __future__ import annotations

import pytest

from tests.cluster.hub_server import WRITER, Hub, running_hub
from tests.cluster.output.test_wandb_sink import history, records
from tests.runs.training import SMALL, Training, training

PUBLISHING = (
    *SMALL, "cluster.save_steps=2", "cluster.save_total_limit=1", "cluster.push_to_hub={}", "cluster.report_to=[wandb]",
    "cluster.log_completions=true", "cluster.num_completions_to_print=2", "cluster.logging_steps=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Hub]:
    folder = tmp_path_factory.mktemp("publishing")
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        for name, value in {**hub.environment(folder / "home"), "WANDB_MODE": "offline", "HOME": str(folder)}.items():
            patch.setenv(name, value)
        hub.gate.clear()
        with training(folder / "published", *PUBLISHING) as run:
            run.wait_for_step(6)
            assert hub.held.acquire(timeout=60), "the adapter of step 2 is on its way"
            hub.gate.set()
            assert run.finish() == 0, run.output()
        return run, hub


@pytest.mark.slow
def test_adapters_are_pushed_beside_the_training(published: tuple[Training, Hub]) -> None:
    run, hub = published
    assert run.summary()["hub"] == {
        "repo_id": "me/published", "pushed_steps": [2, 6], "failed_steps": [], "superseded": 1, "last_error": "",
    }  # fmt: skip
    assert [message for _, message, _ in hub.repositories["me/published"].commits] == ["Step 2", "Step 6"]
    pushed = hub.files("me/published")
    assert pushed["adapter_model.safetensors"] == (run.out_dir / "adapter" / "adapter_model.safetensors").read_bytes()
    assert {"README.md", "config.yaml", "curves.svg", "report.html", "tokenizer.json", "chat_template.jinja"} < set(pushed)
    assert not (run.out_dir / "hub").exists()


@pytest.mark.slow
def test_no_file_of_the_run_and_none_that_is_pushed_holds_the_token(published: tuple[Training, Hub]) -> None:
    run, hub = published
    contents = {str(file): file.read_bytes() for file in run.out_dir.rglob("*") if file.is_file()} | hub.files("me/published")
    assert not [name for name, content in contents.items() if WRITER.encode() in content]


@pytest.mark.slow
def test_wandb_has_the_metrics_of_the_run(published: tuple[Training, Hub]) -> None:
    run, _ = published
    (found,) = records(run.out_dir)
    rows = {row["train/global_step"]: row for row in history(found) if "train/reward" in row}
    for step in run.metrics():
        logged = {name: value for name, value in step.items() if name not in ("step", "time")}
        assert {name: rows[step["step"]][name] for name in logged} == logged
    assert [row["train/global_step"] for row in history(found) if "completions/_type" in row or "completions" in row] == [3, 6]


@pytest.mark.slow
def test_completions_are_printed_every_so_many_steps(published: tuple[Training, Hub]) -> None:
    import pyarrow.parquet as pq

    run, _ = published
    output = run.output()
    assert [step for step in range(1, 7) if f"--- step {step}, completion 1 of 2: reward" in output] == [3, 6]
    table = pq.read_table(run.out_dir / "completions" / "step-000003.parquet")
    advantages = table.column("advantage").to_pylist()
    assert len(advantages) == 8 and abs(sum(advantages)) < 1e-6, "of a group they sum to 0"
