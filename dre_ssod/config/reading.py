"""A user's config file and KEY VALUE pairs to a config, or an error that names the key."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from detectron2.config import CfgNode

from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError
from dre_ssod.settings import EXAMPLES
from dre_ssod.yaml_text import refuse_repeated_keys


def read_config(
    config_file: str = "",
    opts: Sequence[Any] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    more_files: Sequence[str] = (),
) -> CfgNode:
    """The default config, changed by files, by settings and then by the command line.

    A whole number is taken where a key holds a decimal one.

    Args:
        config_file: YAML, possibly with ``_BASE_``; read without running anything in it. Several
            with commas between them: later ones win. "" for none.
        opts: keys and values in turn.
        settings: of a checkpoint, by key.
        more_files: whose keys come over those of the first, each over the one before.

    Raises:
        ConfigError: naming the file, key and value that cannot be used, and close key names.
    """
    cfg = get_cfg()
    for file in (*_files(config_file), *more_files):
        for key, value in leaves(_read_file(file)):
            _set(cfg, key, value, f" (in {file})")
    for key, value in (settings or {}).items():
        _set(cfg, key, value, " (in the checkpoint)")
    words = list(opts)
    if len(words) % 2:
        raise ConfigError(
            f"the command line does not end in pairs of KEY VALUE: {str(words[-1])!r} has no "
            "partner. Put a space between key and value, quote values with spaces, and name "
            "options such as --resume before the first key"
        )
    for key, value in zip(words[::2], words[1::2], strict=True):
        _set(cfg, key, value, "")
    if cfg.DATALOADER.NUM_WORKERS == -1:
        cfg.DATALOADER.NUM_WORKERS = suitable_workers(cfg.MODEL.DEVICE)
    return cfg


def suitable_workers(device: str) -> int:
    """What DATALOADER.NUM_WORKERS -1 stands for, beside a model on MODEL.DEVICE.

    None where the model needs the cores itself; on a GPU, those that are left of its share of
    them, at most eight.
    """
    if not (device.startswith("cuda") and torch.cuda.is_available()):
        return 0
    share = (os.cpu_count() or 1) // torch.cuda.device_count()
    return max(1, min(8, share - 1))


def _files(names: str) -> list[str]:
    """The config files that ``--config-file`` names; a file may have commas in its own name."""
    if not names or Path(names).is_file():
        return [names] if names else []
    return names.split(",")


class _Files(CfgNode):
    """Opens config files, and those that they name as ``_BASE_``, if they give each key once."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        with super()._open_cfg(filename) as file:
            text = file.read()
        refuse_repeated_keys(text)
        return io.StringIO(text)


def _read_file(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        folder = Path(path).parent
        close = get_close_matches(Path(path).name, [p.name for p in folder.glob("*.yaml")])
        hint = f"; close names there: {', '.join(close)}" if close else ""
        raise ConfigError(f"--config-file {path!r}: there is no such file{hint}")
    try:
        content = _Files.load_yaml_with_base(path, allow_unsafe=False)
    except OSError as error:
        raise ConfigError(
            f"--config-file {path!r}: cannot be read: {error}. The path of a _BASE_ starts at the "
            "folder of the file that names it"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config-file {path!r}: not valid YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config-file {path!r}: not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"--config-file {path!r}: its _BASE_ leads back to itself") from error
    except (AssertionError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"--config-file {path!r}: {_NO_KEYS} ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config-file {path!r}: {_NO_KEYS}; it is {content!r:.80}")
    return content


_NO_KEYS = "a config file holds keys and values by group, such as 'SOLVER:' and '  MAX_ITER: 100'"


def leaves(node: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a nested config with their values; an empty group counts as a value."""
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(cfg: CfgNode, key: str, raw: Any, where: str) -> None:
    """Set one key, or raise a ConfigError; ``where`` says which file ``raw`` is from."""
    *groups, name = str(key).split(".")
    node: Any = cfg
    for group in groups:
        node = node.get(group) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or name not in node:
        close = get_close_matches(str(key), [known for known, _ in leaves(cfg)], n=3, cutoff=0.75)
        hint = f" Close names: {', '.join(close)}." if close else ""
        raise ConfigError(
            f"there is no config key {str(key)!r}{where}; its value would be {raw!r:.80}.{hint} "
            "dre_ssod/config/keys.py, dre_ssod/methods and Detectron2's config reference explain "
            "all keys."
        )
    old = node[name]
    if isinstance(old, CfgNode):
        if raw == {}:
            return
        keys = ", ".join(f"{key}.{child}" for child in list(old)[:3])
        raise ConfigError(f"{key} is a group of keys{where}, not a key: set {keys} ...")
    value = _decode(raw)
    if isinstance(old, float) and type(value) is int:
        value = _as_float(value)
    elif {type(old), type(value)} == {list, tuple}:
        value = type(old)(value)
    # As in Detectron2, a key may hold None, and what held None anything.
    is_none = value is None or (old is None and type(value) in EXAMPLES)
    if type(value) is not type(old) and not is_none:
        valid = EXAMPLES.get(type(old), "one of " + ", ".join(kind.__name__ for kind in EXAMPLES))
        raise ConfigError(
            f"{key} is {value!r:.200}{where}, of type {type(value).__name__}; it must be {valid}. "
            f"So far it is {old!r:.80}."
        )
    node[name] = value


def _decode(raw: Any) -> Any:
    """A value as Detectron2 reads it: a text that is a Python literal becomes that literal."""
    try:
        return CfgNode._decode_cfg_value(raw)
    # Literals that are nested too deeply or hold what cannot be a key.
    except (TypeError, MemoryError, RecursionError):
        return raw


def _as_float(value: int) -> float | int:
    """The number, which stays whole where it is too large."""
    try:
        return float(value)
    except OverflowError:
        return value
