"""What tests of commands share: a second model, and a Ctrl-C that is heard."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def other_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same model with another fingerprint, as another quantisation would have."""
    content = model_path.read_bytes()
    assert content.count(b"Mix1 Ep2") == 1
    path = tmp_path_factory.mktemp("other") / "other.gguf"
    path.write_bytes(content.replace(b"Mix1 Ep2", b"Mix2 Ep2"))
    yield path
    path.unlink()


@pytest.fixture(autouse=True, scope="session")
def hearing_ctrl_c() -> Iterator[None]:
    """A suite that was started in the background ignores Ctrl-C, and so would all it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
