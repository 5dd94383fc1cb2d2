"""The packaged files: written where the user is, annotated, and equal to what they were."""

from pathlib import Path

import pytest

from configs.contracts.errors import ConfigError
from configs.loading import load_config, load_sft_config
from configs.packaged import FOLDER, annotated, packaged_names, write_packaged


@pytest.mark.parametrize("name", packaged_names())
def test_the_written_file_is_the_same_run(name: str, tmp_path: Path) -> None:
    load = load_sft_config if name.endswith("sft") else load_config
    assert load(write_packaged(name, tmp_path)) == load(FOLDER / f"{name}.yaml")


def test_each_key_without_a_comment_gets_the_description_of_the_schema() -> None:
    text = "actors:\n  top_k: 5\n  # mine\n  max_num_seqs: 4\n  enforce_eager: true   # mine\nseed: 0\n"
    told = annotated(text)
    assert "  # Sample from the k likeliest tokens; -1 means all tokens.\n  top_k: 5\n  # mine\n  max_num_seqs: 4\n" in told
    assert told.count("# mine") == 2 and "Capture no CUDA graphs" not in told


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    written = write_packaged("configs/quickstart.yaml", tmp_path)
    written.write_text("mine")
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        write_packaged("quickstart", tmp_path)
    assert written.read_text() == "mine"


def test_a_misspelt_name_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        write_packaged("quikstart", tmp_path)


def test_every_file_has_a_purpose() -> None:
    assert all(purpose and "\n" not in purpose and not purpose.endswith(":") for purpose in packaged_names().values())
