"""The picture of the architecture is drawn from the code as it is."""

from __future__ import annotations

from docs.draw_architecture import FLOW, PICTURE, draw


def test_the_picture_is_current() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(), (
        "run python -m docs.draw_architecture and look at docs/images/architecture.svg"
    )


def test_the_flow_has_all_five_moments() -> None:
    assert {stage.moment for stage in FLOW} == {0, 1, 2, 3, 4, 5}
