"""The questions of these tasks, as lm-evaluation-harness asks for them."""

import json
from pathlib import Path
from typing import Any


def load(name: str, **_settings: Any) -> dict[str, Any]:
    """Return the questions of a task, of which there is a test alone."""
    from datasets import Dataset

    lines = Path(__file__).with_name(f"{name}.jsonl").read_text().splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
