"""Where the images and class names of a YOLO dataset are: its YAML file, or its folders."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import is_hidden, list_images, remark_if_hidden
from dre_ssod.data.sources.names import check_class_name, show_names
from dre_ssod.data.sources.uri import join_inside
from dre_ssod.data.text_files import read_lines, read_text
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place
from dre_ssod.yaml_text import refuse_repeated_keys

SPLIT_KEYS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
_DEEPEST = 20


@dataclass(frozen=True)
class YoloLayout:
    """A dataset folder and what its YAML file says.

    Attributes:
        root: the dataset folder, absolute.
        limit: the folder that names in the dataset's files must not leave; None for any.
        config: the YAML file; None if there is none.
        content: of the YAML file.
    """

    root: Place
    limit: Place | None
    config: Place | None = None
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Place, outside: bool) -> YoloLayout:
        """Find and read the YAML file.

        Args:
            place: the dataset folder, or the YAML file in it.
            outside: whether names in the dataset's files may leave the folder.

        Raises:
            SourceError: if the file cannot be read, or which one is meant is unclear.
        """
        config = _find_config(place) if place.is_dir() else place
        root = place if place.is_dir() else place.parent
        limit = None if outside else root
        if config is None:
            return cls(root, limit)
        content = _read_yaml(config)
        path = content.get("path")
        if path is not None:
            if not isinstance(path, str):
                raise SourceError(f"{config}: 'path' must be a folder's name, is {_show(path)}")
            hint = "'path' (leave it out if the images are beside this file)"
            root = join_inside(root, path, limit, f"{config}: {hint}")
            if not root.is_dir():
                raise SourceError(f"{config}: {hint}: there is no folder {root}")
        return cls(root, limit, config, content)

    @property
    def has_names(self) -> bool:
        """Whether the names of classes are somebody's, not made of ``nc``."""
        return self.config is None or self.content.get("names") is not None

    def class_list(self, chosen: tuple[str, ...]) -> tuple[str, list[str]]:
        """Where the class names are from, for messages, and they in the order of their indices.

        They are taken from ``names`` or ``nc`` of the YAML file, or from ``classes.txt``, one name
        per line; ``chosen``, if it is not empty, must agree with what is found there.

        Raises:
            SourceError: if there are no names, or they contradict each other.
        """
        origin = self.config or self.root / "classes.txt"
        found = self._config_classes() if self.config else read_class_file(origin)
        if found and chosen and list(chosen) != found:
            raise SourceError(
                f"{origin}: the classes are {show_names(found)}, but classes= says "
                f"{show_names(chosen)}; leave classes= out"
            )
        classes = found or list(chosen)
        if not classes:
            raise SourceError(
                f"{origin}: gives no class names; write 'names' into data.yaml, one name per line "
                "into classes.txt, or add classes=A,B,C to the URI"
            )
        return str(origin) if found else "classes= of the URI", classes

    def point_columns(self) -> int:
        """Numbers that follow the box in a line of a label file: key points, if there are any.

        Raises:
            SourceError: if ``kpt_shape`` of the YAML file is not [points, 2 or 3].
        """
        shape = self.content.get("kpt_shape")
        if shape is None:
            return 0
        valid = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
        if not valid or shape[0] < 1 or shape[1] not in (2, 3):
            raise SourceError(
                f"{self.config}: 'kpt_shape' must be [points, 2 or 3], is {_show(shape)}"
            )
        return math.prod(shape)

    def places(self, split: str) -> list[Place]:
        """Folders of images and lists of images that make up a split.

        Raises:
            SourceError: if there is no such split.
        """
        if self.config is None:
            return [self._split_folder(split)]
        entries = self.content.get(split) if split in SPLIT_KEYS else None
        if entries is None:
            valid = [key for key in SPLIT_KEYS if self.content.get(key) is not None]
            raise SourceError(
                f"{self.config}: has no split {split!r}; valid: {', '.join(valid) or 'none'}"
            )
        entries = entries if isinstance(entries, list) else [entries]
        return [self._place(entry, f"{self.config}: {split!r}") for entry in entries]

    def images(self, split: str, remarks: Remarks) -> list[Place]:
        """The images of a split, in the order of its lists and, within folders, of their names.

        Args:
            remarks: gets the pictures that are passed over.

        Raises:
            SourceError: if one is missing, or named twice, or there is none.
        """
        found: dict[Place, None] = {}
        places = self.places(split)
        for place in places:
            if place.is_dir():
                images: Iterator[Place] = (place / n for n in list_images(place, remarks))
            else:
                images = self._read_list(place, remarks)
            for image in images:
                if image in found:
                    raise SourceError(f"{place}: {image} is in the split {split!r} twice")
                found[image] = None
        if not found:
            raise SourceError(f"{' and '.join(map(str, places))}: no image for the split {split!r}")
        return list(found)

    def _config_classes(self) -> list[str]:
        names, count = self.content.get("names"), self.content.get("nc")
        if count is not None and (type(count) is not int or count < 1):
            raise SourceError(f"{self.config}: 'nc' must be a positive integer, is {_show(count)}")
        if names is None:
            # The names that Ultralytics gives.
            return [f"class_{index}" for index in range(min(count or 0, 100_000))]
        if isinstance(names, dict):
            if not all(type(key) is int for key in names) or set(names) != set(range(len(names))):
                raise SourceError(
                    f"{self.config}: the keys of 'names' must be 0, 1, 2, ... without gaps, are "
                    f"{_show(list(names))}"
                )
            names = [names[index] for index in range(len(names))]
        if not isinstance(names, list):
            raise SourceError(f"{self.config}: 'names' must be a list, is {_show(names)}")
        if count is not None and count != len(names):
            raise SourceError(
                f"{self.config}: 'nc' is {count}, but 'names' has {len(names)} entries"
            )
        return _check_names(names, self.config)

    def _split_folder(self, split: str) -> Place:
        tried = [self.root / "images" / split, self.root / split / "images"]
        found = [folder for folder in tried if folder.is_dir()]
        if len(found) != 1:
            problem = "both exist; remove one" if found else "neither exists"
            raise SourceError(
                f"{self.root}: no data.yaml, and for the split {split!r} {problem}: "
                f"{' and '.join(map(str, tried))}"
            )
        return found[0]

    def _place(self, entry: Any, where: str) -> Place:
        if not isinstance(entry, str):
            raise SourceError(f"{where}: must be a folder or a list of images, is {_show(entry)}")
        if "\\" in entry:
            raise SourceError(f"{where}: {entry!r} has backslashes, as on Windows; write it with /")
        # Exports of Roboflow count from a folder too deep; Ultralytics forgives it in this way.
        forgiven = entry[3:] if entry.startswith("../") else ""
        beside = join_inside(self.root, forgiven, self.limit, where) if forgiven.strip() else None
        if self.limit is not None and beside is not None and beside.exists():
            return beside
        place = join_inside(self.root, entry, self.limit, where)
        if place.exists():
            return place
        if beside is not None and beside.exists():
            return beside
        raise SourceError(f"{where}: there is no folder or list {place}")

    def _read_list(self, path: Place, remarks: Remarks) -> Iterator[Place]:
        if path.suffix != ".txt":
            raise SourceError(f"{path}: must be a folder of images, or a .txt file that lists them")
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            image = join_inside(path.parent, line.strip(), self.limit, where, remarks)
            remark_if_hidden(line.strip(), remarks, where)
            try:
                exists = image.is_file()
            except OSError as error:
                raise SourceError(f"{where}: {error}") from error
            if not exists:
                raise SourceError(f"{where}: there is no image {image}")
            yield image


def _find_config(folder: Place) -> Place | None:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in YAML_SUFFIXES and not is_hidden(path.name)
    )
    preferred = folder / "data.yaml"
    if preferred in found:
        return preferred
    if len(found) > 1:
        raise SourceError(
            f"{folder}: which of {', '.join(path.name for path in found)} describes the dataset? "
            f"Name the file: yolo://{found[0]}?split=train"
        )
    return found[0] if found else None


def _read_yaml(path: Place) -> dict[str, Any]:
    text = read_text(path)
    try:
        _check_events(text)
        refuse_repeated_keys(text)
        content = yaml.safe_load(text)
    except Exception as error:  # PyYAML's readers of dates and numbers raise errors of many types.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path}: cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise SourceError(
            f"{path}: holds {_show(content)}; expected 'train', 'val' and 'names', as Ultralytics "
            "describes them"
        )
    return content


def _check_events(text: str) -> None:
    """Raise a ValueError for what takes more time or memory than a text of this length should."""
    depth = 0
    for event in yaml.parse(text):
        # A few lines of aliases to aliases can stand for more entries than fit into the memory.
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not accepted; write the values out")
        # PyYAML's time grows with the square of the depth.
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"lists and mappings are nested more than {_DEEPEST} deep")


def read_class_file(path: Place) -> list[str]:
    """The names in a file with one per line; empty without the file."""
    if not path.is_file():
        return []
    lines = [line.strip() for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    return _check_names(lines, path)


def _check_names(names: list[Any], path: Place | None) -> list[str]:
    texts: list[str] = []
    for index, name in enumerate(names):
        # YAML makes a number of a name like 7.
        text = str(name) if type(name) is int else name
        name = check_class_name(text, f"{path}: class {index}")
        if name in texts:
            raise SourceError(f"{path}: two classes are called {name!r}; rename or merge them")
        texts.append(name)
    return texts


def _show(value: Any) -> str:
    """A short text for a value from a file, however large or deep it is."""
    return reprlib.repr(value)
