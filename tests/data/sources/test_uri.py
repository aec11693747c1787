from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dre_ssod.data.sources.uri import (
    datasets_root,
    find_any,
    find_file,
    find_folder,
    is_uri,
    join_inside,
    parse_uri,
)
from dre_ssod.errors import SourceError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(path=TEXT, split=TEXT, classes=st.lists(TEXT, min_size=1))
def test_everything_survives_percent_encoding(path: str, split: str, classes: list[str]) -> None:
    parts = ",".join(quote(name, safe="") for name in classes)
    text = f"voc://{quote(path, safe='')}?split={quote(split, safe='')}&classes={parts}"
    uri = parse_uri(text)
    assert (uri.scheme, uri.path, uri.value("split")) == ("voc", path, split)
    assert uri.values("classes") == classes
    assert uri.text == text


def test_characters_that_need_no_encoding_stay() -> None:
    uri = parse_uri("coco:///a b/c+d#e:f.json?images=g=h/i+j")
    assert uri.path == "/a b/c+d#e:f.json"
    assert uri.value("images") == "g=h/i+j"


def test_missing_keys_give_the_default() -> None:
    uri = parse_uri("sample://val")
    assert uri.value("seed", "0") == "0"
    assert uri.values("classes") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coc://a.json", r"unknown scheme 'coc' \(did you mean coco://\?\); valid: coco://"),
        ("https://a.json", "unknown scheme 'https'; valid: .*folder://DIR"),
        ("COCO://a.json?images=b", "unknown scheme 'COCO'"),
        ("folder://", "no path after ://; write folder://DIR"),
        ("coco://?images=a", "no path after ://"),
        ("coco://a.json?", "'' is not key=value"),
        ("coco://a.json?images", "'images' is not key=value"),
        ("coco://a.json?images=", "'images=' is not key=value"),
        ("voc://a?split=b&split=c", "'split' is given twice"),
        ("folder://100%", "not followed by two hex digits; write it %25"),
        ("folder://%ff", "not UTF-8"),
        ("folder://a%00", "zero byte"),
    ],
)
def test_malformed_uris_are_named(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_uri(text)


def test_unknown_and_missing_keys_name_the_valid_ones() -> None:
    uri = parse_uri("voc://root?spilt=train")
    with pytest.raises(SourceError, match="unknown key 'spilt'; valid: split, classes"):
        uri.allow(required=["split"], optional=["classes"])
    with pytest.raises(SourceError, match="unknown key 'spilt'; valid: none"):
        uri.allow()
    with pytest.raises(SourceError, match=r"the key 'split' is missing; write voc://ROOT"):
        parse_uri("voc://root").allow(required=["split"])


def test_is_uri() -> None:
    assert is_uri("folder://a")
    assert is_uri("nonsense://a")
    assert not is_uri("coco_2017_train")


def test_relative_paths_are_tried_here_first_then_under_the_datasets_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    (here / "both").mkdir(parents=True)
    (root / "both").mkdir(parents=True)
    (root / "only").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    uri = parse_uri("folder://both")
    assert find_folder("both", uri) == here / "both"
    assert find_folder("only", uri) == root / "only"
    assert find_folder(str(root / "both"), uri) == root / "both"


def test_the_error_names_every_tried_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    uri = parse_uri("folder://images")
    with pytest.raises(SourceError) as caught:
        find_folder("images", uri)
    assert f"{tmp_path / 'images'} and {tmp_path / 'root' / 'images'}" in str(caught.value)
    (tmp_path / "images").mkdir()
    with pytest.raises(SourceError, match="images exists but is not a file"):
        find_file("images", uri)
    with pytest.raises(SourceError) as caught:
        find_file("/nowhere/a.json", uri)
    assert str(caught.value).endswith("; tried /nowhere/a.json")


def test_the_datasets_root_is_read_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert datasets_root() == Path("datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert datasets_root() == Path.home() / "data"


def test_names_that_cannot_be_looked_for_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = parse_uri("folder://a")
    with pytest.raises(SourceError, match=r"cannot be looked for: .*too long"):
        find_folder("x" * 300, uri)
    with pytest.raises(SourceError, match=r"~nobody_at_all/a.*write the path in full"):
        find_file("~nobody_at_all/a", uri)
    (tmp_path / "a").touch()
    assert find_any("a", uri) == tmp_path / "a"
    with pytest.raises(SourceError, match="no file or folder 'b'"):
        find_any("b", uri)


FOLDER = Path("/data/set")
PARTS = st.lists(st.sampled_from(["..", ".", "a", "b c", "..."]), min_size=1, max_size=6)


@given(parts=PARTS, absolute=st.booleans())
def test_a_joined_path_stays_inside_or_is_refused(parts: list[str], absolute: bool) -> None:
    path = ("/data/set/" if absolute else "") + "/".join(parts)
    depth = lowest = 0
    for part in parts:
        depth += {"..": -1, ".": 0}.get(part, 1)
        lowest = min(lowest, depth)
    try:
        place = join_inside(FOLDER, path, FOLDER, "list.txt, line 3")
    except SourceError as error:
        message = str(error)
    else:
        assert place.is_relative_to(FOLDER)
        assert ".." not in place.parts
        assert len(place.parts) - len(FOLDER.parts) == depth
        return
    assert lowest < 0
    assert message.startswith("list.txt, line 3: ")
    assert "outside /data/set" in message
    assert "outside=allow" in message
    assert ".." not in join_inside(FOLDER, path, None, "").parts


def test_the_limit_may_be_above_the_folder() -> None:
    assert join_inside(FOLDER / "lists", "../a.jpg", FOLDER, "") == FOLDER / "a.jpg"
    with pytest.raises(SourceError, match="outside /data/set"):
        join_inside(FOLDER / "lists", "../../a.jpg", FOLDER, "")
    with pytest.raises(SourceError, match="outside /data/set"):
        join_inside(FOLDER, "/data/settings/a.jpg", FOLDER, "")
    assert join_inside(FOLDER, "/data/settings/a.jpg", None, "") == Path("/data/settings/a.jpg")


@pytest.mark.parametrize("path", ["", " ", "a\0b", "a\ud800", "x" * 256, "ab/" * 2000])
def test_what_can_be_no_file_name_is_refused(path: str) -> None:
    with pytest.raises(SourceError, match=r"a\.json: .* cannot be the name of a file"):
        join_inside(FOLDER, path, None, "a.json")


def test_outside_has_one_value() -> None:
    assert parse_uri("coco://a?images=b&outside=allow").allows_outside()
    assert not parse_uri("coco://a?images=b").allows_outside()
    with pytest.raises(SourceError, match="outside=yes is unknown; write outside=allow"):
        parse_uri("coco://a?images=b&outside=yes").allows_outside()
