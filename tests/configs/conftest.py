"""Scripts that users start trainings with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs.launch.medicalgpt import write_scripts


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripts(tmp_path_factory.mktemp("scripts"))
