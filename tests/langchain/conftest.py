"""What tests of LangChain share: a user's folder of presets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from steerplug.session.shared import forget_sessions
from tests.helpers.presets import SAD_PRESET


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder with the preset `sad`; what is built is kept for all tests of this run."""
    base = tmp_path_factory.getbasetemp()
    presets = tmp_path_factory.mktemp("presets")
    (presets / "sad.yaml").write_text(SAD_PRESET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_PRESETS", str(presets))
        patch.setenv("STEERPLUG_CACHE", str(base / "langchain-steering"))
        forget_sessions()
        yield presets
        forget_sessions()
