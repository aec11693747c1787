"""Damaged annotation files: an error with the file's name, or a correct read, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import open_source
from dre_ssod.errors import SourceError
from tests.data.written_sets import Example, read_usable, write_coco, write_voc, write_yolo

EXAMPLE = Example(
    "set",
    ["cat", "dog", "owl"],
    {
        "ia": ((40, 30), [(0, 1.0, 2.0, 30.0, 20.0), (2, 0.0, 0.0, 40.0, 30.0)]),
        "ib": ((16, 16), []),
        "ic": ((20, 64), [(1, 3.5, 4.0, 9.0, 60.0)]),
    },
)
WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
FILES = [
    ("coco", "a%20b.json"),
    ("voc", "Annotations/ia.xml"),
    ("voc", "ImageSets/Main/train.txt"),
    ("yolo", "data.yaml"),
    ("yolo", "labels/train/ia.txt"),
    ("yolo", "list.txt"),
]
MANY = settings(max_examples=150, deadline=None, derandomize=True)


class Damaged:
    """A dataset with one file that is overwritten again and again."""

    def __init__(self, root: Path, scheme: str, file: str) -> None:
        self.uri = WRITERS[scheme](root, EXAMPLE)
        self.file = root / file
        if file == "list.txt":
            names = "".join(f"images/train/{name}.png\n" for name in EXAMPLE.images)
            self.file.write_text(names)
            (root / "data.yaml").write_text("train: list.txt\nnames: [cat, dog, owl]\n")
        self.content = self.file.read_bytes()
        self.errors = self.reads = 0

    def read(self, content: bytes) -> None:
        """Read the dataset with this content; raises anything but errors that name the file."""
        self.file.write_bytes(content)
        source = open_source(self.uri)
        try:
            count = len(source.metadata()["thing_classes"])
            check_records(read_usable(source)[0], count)
            images = source.images(Remarks())
            check_records([{**record, "annotations": []} for record in images], count)
        except SourceError as error:
            message = str(error)
            self.errors += 1
        else:
            self.reads += 1
            return
        assert self.file.name in message
        assert len(message.encode()) < 2000


def check_records(records: list[dict[str, Any]], classes: int) -> None:
    """Records that training can use."""
    assert records
    assert len({record["image_id"] for record in records}) == len(records)
    for record in records:
        record["file_name"].encode()
        assert all(type(record[key]) is int for key in ("height", "width") if key in record)
        for item in record["annotations"]:
            box = BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS)
            assert all(map(math.isfinite, box))
            assert box[0] < box[2]
            assert box[1] < box[3]
            assert 0 <= item["category_id"] < classes


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "remove", "double", "insert"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 12),
        st.sampled_from(b"\0\t\n \"'%&*-./019:;<>?[]_e{}\x80\xc3\xed\xff"),
    ),
    min_size=1,
    max_size=4,
)


def edit(content: bytes, edits: list[tuple[str, float, int, int]]) -> bytes:
    for kind, place, length, value in edits:
        start = int(place * len(content))
        before, part, after = content[:start], content[start : start + length], content[start:]
        if kind == "flip":
            content = before + bytes([value]) + after[1:]
        elif kind == "remove":
            content = before + after[length:]
        elif kind == "double":
            content = before + part + after
        else:
            content = before + bytes([value]) * (length % 3 + 1) + after
    return content


@pytest.mark.parametrize(("scheme", "file"), FILES)
def test_damaged_bytes(tmp_path: Path, scheme: str, file: str) -> None:
    damaged = Damaged(tmp_path, scheme, file)

    @MANY
    @given(edits=EDITS)
    def check(edits: list[tuple[str, float, int, int]]) -> None:
        damaged.read(edit(damaged.content, edits))

    check()
    assert damaged.errors > 10
    damaged.read(damaged.content)
    assert damaged.reads > 0


ODD = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1.5, 2**31, 10**30, 10**400, math.nan, -math.inf, 1e308),
        *("", " ", "cat", "1", "..", "../../x", "/", "a\0b", "\ud800", "x" * 5000),
        *([], {}, [[]], [None], [1, 2, 3, 4], {"id": 1}, [{"id": 1}], {0: "a"}),
    ]
)


def paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys and indices that lead to every value below the top."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*path, key))


@pytest.mark.parametrize(
    ("scheme", "file", "load", "dump"),
    [
        ("coco", "a%20b.json", json.loads, json.dumps),
        ("yolo", "data.yaml", yaml.safe_load, yaml.safe_dump),
    ],
)
def test_values_of_other_types(
    tmp_path: Path,
    scheme: str,
    file: str,
    load: Callable[[bytes], Any],
    dump: Callable[[Any], str],
) -> None:
    damaged = Damaged(tmp_path, scheme, file)
    extra = {"segmentation": [[1, 2, 3, 4, 5, 6]], "area": 4.0, "iscrowd": 0}
    whole = load(damaged.content)
    for item in whole.get("annotations", []):
        item.update(extra)
    if scheme == "yolo":
        whole.update(path=".", nc=3, kpt_shape=None)
    places = list(paths(whole))

    @MANY
    @given(place=st.sampled_from(places), value=ODD, gone=st.booleans())
    def check(place: tuple[Any, ...], value: Any, gone: bool) -> None:
        changed = load(dump(whole).encode())
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        if gone and value is None:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        damaged.read(dump(changed).encode(errors="surrogatepass"))

    check()
    assert damaged.errors > 10
    assert damaged.reads > 3


def test_xml_elements_without_tags_and_with_other_text(tmp_path: Path) -> None:
    damaged = Damaged(tmp_path, "voc", "Annotations/ia.xml")
    count = len(list(ElementTree.fromstring(damaged.content).iter()))
    texts = st.sampled_from(
        ["", " ", "x", "-1", "0", "nan", "inf", "1e999", "1_0", "9" * 5000, "٣"]
    )

    @MANY
    @given(
        number=st.integers(1, count - 1),
        kind=st.sampled_from(["remove", "unwrap", "text", "rename", "double"]),
        text=texts,
    )
    def check(number: int, kind: str, text: str) -> None:
        root = ElementTree.fromstring(damaged.content)
        element = list(root.iter())[number]
        parent = next(node for node in root.iter() if element in list(node))
        if kind == "text":
            element.text = text
        elif kind == "rename":
            element.tag = "bndbox"
        elif kind == "double":
            parent.append(element)
        else:
            parent.remove(element)
            parent.extend(list(element) if kind == "unwrap" else [])
        damaged.read(ElementTree.tostring(root))

    check()
    assert damaged.errors > 10
    assert damaged.reads > 10


def laughs(entry: str, depth: int = 30) -> str:
    """A line for each level, each of which stands for ten of the level before."""
    return "".join(entry.format(number, number - 1) for number in range(1, depth))


XML_BOMB = (
    '<!DOCTYPE a [<!ENTITY e0 "ha">'
    + laughs('<!ENTITY e{0} "' + "&e{1};" * 10 + '">')
    + "]><annotation><object><name>&e29;</name></object></annotation>"
)
XML_FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
YAML_BOMB = "a0: &a0 [ha]\n" + laughs("a{0}: &a{0} [" + ", ".join(["*a{1}"] * 10) + "]\n")
YAML_MERGE = "a0: &a0 {x: 1}\n" + laughs(
    "a{0}: &a{0} {{<<: [" + ", ".join(["*a{1}"] * 10) + "]}}\n"
)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("scheme", "file", "content"),
    [
        ("voc", "Annotations/ia.xml", XML_BOMB),
        ("voc", "Annotations/ia.xml", XML_FILE),
        ("voc", "Annotations/ia.xml", "<a>" * 20_000),
        ("voc", "Annotations/ia.xml", "<annotation>" + "<a>" * 9999 + "</a>" * 9999),
        ("voc", "Annotations/ia.xml", '<?xml version="1.0" encoding="nonsense"?><annotation/>'),
        ("yolo", "data.yaml", YAML_BOMB + "names: *a29\n"),
        ("yolo", "data.yaml", YAML_MERGE + "names: *a29\n"),
        ("yolo", "data.yaml", "names: !!python/object/apply:os.mkdir ['TARGET']\n"),
        ("yolo", "data.yaml", "names: !!python/object/new:type [z, [], {}]\n"),
        ("yolo", "data.yaml", "names: " + "[" * 20_000),
        ("yolo", "data.yaml", "names: " + "[" * 5000 + "]" * 5000),
        ("yolo", "data.yaml", "".join(f"{' ' * depth}a:\n" for depth in range(2000))),
        ("yolo", "data.yaml", "a: 2024-99-99\n"),
        ("yolo", "data.yaml", "a: !!int ''\n"),
        ("yolo", "data.yaml", "? {a: b}\n: c\n"),
        ("coco", "a%20b.json", "[" * 20_000),
        ("coco", "a%20b.json", '{"images": ' + "[" * 900 + "]" * 900 + "}"),
        ("coco", "a%20b.json", '{"images": [{"id": ' + "9" * 5000 + "}]}"),
    ],
)
def test_files_made_to_do_harm(tmp_path: Path, scheme: str, file: str, content: str) -> None:
    target = tmp_path / "made"
    root = tmp_path / "set"
    root.mkdir()
    damaged = Damaged(root, scheme, file)
    damaged.read(content.replace("TARGET", str(target)).encode())
    assert damaged.errors == 1
    assert not target.exists()
