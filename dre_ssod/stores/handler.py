"""Stores in Detectron2's ``PathManager``, through which weights and registered sets are read."""

from __future__ import annotations

from typing import IO, Any

import fsspec.config
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import HTTPURLHandler

from dre_ssod.stores.cache import local_copy
from dre_ssod.stores.objects import PROTOCOLS, StoreError, is_address
from dre_ssod.stores.places import StorePath

_DETECTRON2S = ("ftp",)
_MODEL_ZOOS = "https://dl.fbaipublicfiles.com/"
"""Where ``detectron2://`` and ``catalog://`` lead."""


class ModelZooHandler(HTTPURLHandler):
    """Detectron2's reader, in whose cache the model zoos have been for years.

    It knows a file by its path alone, whatever the server and the time. For the zoos, whose files
    never change, that is enough.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [_MODEL_ZOOS]


class StoreHandler(PathHandler):
    """Reads what fsspec has an address for; see :mod:`dre_ssod.stores.cache`."""

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{protocol}://" for protocol in sorted(PROTOCOLS - set(_DETECTRON2S))]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return local_copy(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if set(mode) & set("wax+"):
            raise StoreError(f"{path}: is only read this way; write to a folder of this machine")
        return open(local_copy(path), mode, buffering, **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return StorePath.parse(path).exists()

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return StorePath.parse(path).is_file()

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return StorePath.parse(path).is_dir()

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        return sorted(entry.name for entry in StorePath.parse(path).iterdir())


def weights_file(path: str) -> str:
    """A file of weights; of one in a store or on a web server, a copy.

    Raises:
        OSError: as of :func:`local_copy`, or if the server of a model zoo does not give it.
        StoreError, FileError: as of :func:`local_copy`.
    """
    return str(PathManager.get_local_path(path)) if is_address(path) else path


PathManager.register_handler(StoreHandler())
PathManager.register_handler(ModelZooHandler())
# As Detectron2's reader does, by the proxies of the environment.
fsspec.config.conf.setdefault("http", {}).setdefault("client_kwargs", {"trust_env": True})
