"""A repository on the Hugging Face hub as a source of files, through `huggingface_hub`.

The revision becomes a commit first, and everything is asked of that commit. Sizes are looked at
before anything is downloaded. The hub's own cache is not used: what is added is kept as a pack.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steerplug.errors import PackError
from steerplug.files.yaml_file import printable
from steerplug.packs.source import Folder, check_total, missing, too_large


class Hub:
    """One commit of a repository on the hub.

    Args:
        repo: org/repo.
        rev: branch, tag or commit; empty for the main branch.
        work: an empty folder for what is downloaded.
        label: what messages call it.

    Raises:
        PackError: huggingface_hub is not installed, or the hub has no such repository.
    """

    def __init__(self, repo: str, rev: str, work: Path, label: str) -> None:
        self.label, self._repo, self._work = label, repo, work
        with self._one_sentence():
            from huggingface_hub import HfApi
            from huggingface_hub.utils import disable_progress_bars

            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
            disable_progress_bars()
            self._api = HfApi()
            info = self._api.model_info(repo, revision=rev or None)
        self.commit = str(info.sha)
        self._names = [sibling.rfilename for sibling in info.siblings or []]

    def top(self) -> list[str]:
        """Return the names of the files at its top."""
        return [name for name in self._names if "/" not in name]

    def read(self, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files; see `Source.read`."""
        names = list(limits)
        with self._one_sentence():
            listed = self._api.get_paths_info(self._repo, names, revision=self.commit)
        sizes = {file.path: file.size for file in listed if hasattr(file, "size")}
        for name, limit in limits.items():
            if name not in sizes:
                raise missing(self.label, name)
            if sizes[name] > limit:
                raise too_large(self.label, name, limit)
        check_total(self.label, sum(sizes[name] for name in names))
        with self._one_sentence():
            self._api.snapshot_download(
                self._repo, revision=self.commit, allow_patterns=names, local_dir=self._work
            )
        yield from Folder(self._work, self.label).read(limits)

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except ImportError:
            raise PackError(
                f"{self.label} needs huggingface_hub; run `pip install 'steerplug[hub]'`."
            ) from None
        except Exception as error:  # the client's own, and those of its transport and its parsers
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PackError(
                f"{self.label} cannot be fetched ({printable(reason)}); check the name and the "
                "revision, and that you are online."
            ) from None
