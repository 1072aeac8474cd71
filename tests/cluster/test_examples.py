"""What teams start from says what the code does: the environment, and settings as arguments."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerplug.cluster.environment import ENVIRONMENT
from steerplug.commands.serve import read
from steerplug.errors import SteerplugError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "ray"


def kuberay() -> Any:
    return yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())["spec"]


def applications() -> list[Any]:
    here = yaml.safe_load((EXAMPLES / "serve.yaml").read_text())
    there = yaml.safe_load(kuberay()["serveConfigV2"])
    return [*here["applications"], *there["applications"]]


def test_every_node_is_told_what_the_code_tells_this_machine() -> None:
    cluster = kuberay()["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        assert told == ENVIRONMENT
    script = (EXAMPLES / "two_nodes.sh").read_text()
    assert dict(re.findall(r"\b(RAY_(?!ADDRESS|AUTH)\w+)=(\S+)", script)) == ENVIRONMENT
    page = (ROOT / "steerplug" / "cluster" / "README.md").read_text()
    assert dict(re.findall(r"^\| `(RAY_\w+)=(\S+)`", page, flags=re.MULTILINE)) == ENVIRONMENT


def test_arguments_are_settings_and_the_sections_are_of_one_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEERPLUG_API_KEY", "a-key")
    for one in applications():
        assert one["import_path"] == "steerplug.ray:app"
        assert [deployment["name"] for deployment in one["deployments"]] == ["Replica"]
        setup, ((model, how),) = read(one["args"])
        assert (setup.host, setup.api_keys) == ("0.0.0.0", ("a-key",))
        assert model == one["args"]["model"]
        assert how.loading.n_threads == one["args"]["n-threads"]
        assert setup.presets_at == one["args"]["presets-at"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"modle": "x"}, "args: there is no setting `modle`; did you mean `model`?"),
        ({"port": "many"}, "port"),
        ({"models": 3}, "args: models lists each model by its name"),
        ({"config": "/no/such.yaml"}, "/no/such.yaml cannot be read"),
        ({"host": "0.0.0.0"}, "there is no API key"),
    ],
)
def test_wrong_arguments_are_a_sentence(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SteerplugError, match=re.escape(sentence)):
        read(said)
