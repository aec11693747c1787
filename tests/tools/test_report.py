"""The page of two trained runs whose names, classes and files would like to be HTML."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from detectron2.engine import default_argument_parser

import train_net
from dre_ssod.report.mistakes import KINDS
from tests.tiny_dataset import loggers_kept, tiny_run, write_tiny_dataset
from tools import report

EVIL = '<script>alert("1")</script>'
EVIL_FILE = '"><img src=x onerror=alert(2)>\u202e$.png'
FIGURES = ("iteration", "teacher/bbox/AP", "loss_cls", "ssod/pseudo_score")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Page(HTMLParser):
    """The elements of a page, in order: names, attributes and the text directly inside."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, []))
        if tag not in self.VOID:
            self._open.append((tag, self.elements[-1][2]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1].append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return ["".join(text).strip() for name, _, text in self.elements if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A trained run, and a copy of it whose record tells of other data and another AP."""
    root = tmp_path_factory.mktemp("root")
    data = write_tiny_dataset(root / "data")
    content = json.loads((data.root / "train.json").read_text())
    content["categories"][0]["name"] = EVIL
    for image in content["images"]:
        old, image["file_name"] = image["file_name"], f"{image['id']}{EVIL_FILE}"
        (data.root / "train" / old).rename(data.root / "train" / image["file_name"])
    (data.root / "train.json").write_text(json.dumps(content))
    one, other = root / EVIL.replace("/", ""), root / "other"
    overrides = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (), "DATASETS.LABELED_PERCENT": 100.0}
    cfg = tiny_run(data, one, **overrides, **{"TEST.RANK_BY_QUALITY": True})
    (root / "run.yaml").write_text(cfg.dump())
    with loggers_kept():
        arguments = default_argument_parser().parse_args(["--config-file", str(root / "run.yaml")])
        train_net.main(arguments)
    shutil.copytree(one, other)
    record = json.loads((other / "run.json").read_text())
    for row in record["runs"][0]["datasets"]:
        row["content"] = "0" * 64
    (other / "run.json").write_text(json.dumps(record))
    for run, ap in ((one, None), (other, 77.0)):
        keep_few_figures(run / "metrics.json", ap)
    return [one, other]


def keep_few_figures(file: Path, ap: float | None) -> None:
    """Leave a chart of each part of the page; and change the recorded AP, where one is given."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    few = [{name: line[name] for name in FIGURES if name in line} for line in lines]
    for line in few:
        if ap is not None and "teacher/bbox/AP" in line:
            line["teacher/bbox/AP"] = ap
    file.write_text("".join(json.dumps(line) + "\n" for line in few))


@pytest.fixture(scope="module")
def page_file(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    words = [*map(str, runs), "--output", str(file), "--images", "2", "--min-score", "0.02"]
    with loggers_kept():
        assert report.run(words) == 0
    return file


@pytest.fixture(scope="module")
def page(page_file: Path) -> Page:
    return Page(page_file.read_text(encoding="utf-8"))


def test_names_are_text_whatever_they_hold(page: Page) -> None:
    (script,) = page.texts("script")
    assert "alert" not in script
    assert EVIL in page.texts("th")
    assert EVIL in page.texts("option")
    # The sign that turns the direction of reading is shown, not obeyed.
    names = [text for text in page.texts("h4") if "onerror" in text]
    assert len(names) == 2
    assert all(name.endswith(EVIL_FILE.replace("\u202e", "\\u202e")) for name in names)
    assert not [a for _, attributes, _ in page.elements for a in attributes if a.startswith("on")]


def test_the_page_needs_no_other_file(page: Page) -> None:
    sources = [a[name] for _, a, _ in page.elements for name in ("src", "href") if name in a]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http:" not in "".join(page.texts("style")) + "".join(page.texts("script"))


def test_every_picture_is_told_and_every_table_has_headers(page: Page) -> None:
    # Charts, and of each image the truth and two detections.
    assert len(page.all("img")) > 2 * 3 + 5
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("th")
    assert all(head["scope"] for head in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert [a["lang"] for a in page.all("html")] == ["en"]
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    # Each link of the contents leads somewhere.
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= set(ids)


def test_levels_of_headings_follow_each_other(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(later - former <= 1 for former, later in pairwise(levels))


def test_what_does_not_fit_is_said_first(page: Page, runs: list[Path]) -> None:
    said = [text for text in page.texts("li") if text]
    assert "were tested on different data" in said[0]
    assert "different labels" in said[1]
    # The run that was not changed gives the AP that it recorded, on the data that it recorded.
    (trained,) = [text for text in said[2:] if text.startswith(f"{runs[0].name}:")]
    assert "8 of its 8 images are in DATASETS.TRAIN as well" in trained
    assert any("other: coco://" in text and "has changed since the run" in text for text in said)
    assert any("the run recorded 77.00 at iteration 1" in text for text in said)


def test_images_carry_their_mistakes(page: Page) -> None:
    cases = [a for a in page.all("article") if a["class"] == "case"]
    assert len(cases) == 2
    for case in cases:
        for mark in case["data-mistakes"].split():
            index, kind, run = mark.split(":")
            assert int(index) < 3
            assert kind in KINDS
            assert run in "01"
    assert any(text.startswith("missed: ") for text in page.texts("li"))


def test_a_run_that_still_trains_is_shown_without_its_model(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run, ignore=shutil.ignore_patterns("*.pth", "last_checkpoint"))
    (run / "results.json").unlink()
    file = tmp_path / "new" / "report.html"
    assert report.run([str(run), "--output", str(file)]) == 2
    assert "--no-model" in capsys.readouterr().err
    assert not file.exists()
    assert report.run([str(run), "--output", str(file), "--no-model"]) == 0
    assert capsys.readouterr().out.startswith(file.as_uri())
    page = Page(file.read_text(encoding="utf-8"))
    assert not page.all("article")
    assert "not yet" in page.texts("td")
    assert "Curves" in page.texts("h2")


def test_other_data_than_those_of_the_run_are_said(runs: list[Path], tmp_path: Path) -> None:
    data = runs[0].parent / "data"
    other = f"coco://{data}/./train.json?images={data}/train"
    file = tmp_path / "report.html"
    words = [str(runs[0]), "--output", str(file), "--images", "0"]
    assert report.run([*words, "--opts", "DATASETS.TEST", f"('{other}',)"]) == 0
    page = Page(file.read_text(encoding="utf-8"))
    said = [text for text in page.texts("li") if text]
    assert "detections were made with DATASETS.TEST" in said[0]
    assert "is not a set that the run was tested on" in said[1]
    assert "8 of its 8 images are in DATASETS.TRAIN as well" in said[2]
    assert "None is shown." in page.texts("p")


def test_without_a_test_set_there_is_nothing_to_detect_on(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.run([str(runs[0]), "--opts", "DATASETS.TEST", "()"]) == 2
    assert "--no-model" in " ".join(capsys.readouterr().err.split())


def test_a_key_that_changes_nothing_is_refused(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.run([str(runs[0]), "--opts", "TEST.VARIANCE_VOTING.SIGMA_T", "0.2"]) == 2
    assert "ENABLED is False" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [["--images", "-1"], ["--min-score", "2"]])
def test_options_out_of_bounds_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.parse_arguments(["run", *words])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--images", "24"], "--images"),
        (["--min-score", "0", "--model", "teacher"], "--min-score, --model"),
        (["--opts", "MODEL.DEVICE", "cpu"], "--opts"),
    ],
)
def test_options_of_detections_do_not_go_without_them(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.parse_arguments(["run", "--no-model", *words])
    said = " ".join(capsys.readouterr().err.split())
    assert f"--no-model makes no detections: it does not go with {named}" in said
    args = report.parse_arguments(["run", "--no-model"])
    assert (args.images, args.model, args.opts) == (24, "teacher", [])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, where there is one."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on PATH")
    with driver.sync_playwright() as started:
        # Without a sandbox, which root, as in containers, cannot have.
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it(browser: Any, page_file: Path, width: int) -> None:
    view = browser.new_page(viewport={"width": width, "height": 800})
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("dialog", lambda dialog: said.append(dialog.message))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page_file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    # The page itself never scrolls sideways; wide tables do so in their own frames.
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert view.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    smallest = "Math.min(...[...document.images].map((i) => i.getBoundingClientRect().width))"
    assert view.evaluate(smallest) > 150


def test_images_are_filtered(browser: Any, page_file: Path) -> None:
    view = browser.new_page()
    view.goto(page_file.as_uri())
    section = view.locator("section:has(> form.filter)").first
    cases = section.locator(".case")
    marks = [case.get_attribute("data-mistakes").split() for case in cases.all()]
    wanted = marks[0][0].split(":")[:2]
    section.get_by_label("Class", exact=True).select_option(wanted[0])
    section.get_by_label("Mistake", exact=True).select_option(wanted[1])
    fitting = [any(mark.split(":")[:2] == wanted for mark in case) for case in marks]
    assert [case.is_visible() for case in cases.all()] == fitting
    assert f"{sum(fitting)} of {len(marks)} images" in section.locator("output").inner_text()
    # By the keyboard alone: from the last choice on to the button.
    view.keyboard.press("Tab")
    view.keyboard.press("Enter")
    assert all(case.is_visible() for case in cases.all())
