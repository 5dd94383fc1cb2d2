"""Runs one Sandbox call for test_sandbox.py in a process of another user: a request, in JSON, on stdin; its result on stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rewards.sandbox.jail import PYTHON, Limits, Sandbox


def main() -> None:
    request = json.load(sys.stdin)
    request["command"] = [part for word in request["command"] for part in (PYTHON if word == "PYTHON" else [word])]
    request["limits"] = Limits(**request["limits"])
    if "bind" in request:
        request["bind"] = {inside: Path(folder) for inside, folder in request["bind"].items()}
    Sandbox.check()
    json.dump(asdict(Sandbox().run(**request)), sys.stdout)


main()
