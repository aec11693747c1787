from __future__ import annotations

from dre_ssod.inspection.run_plots import COLORS, MARKERS, draw_runs, line_style
from dre_ssod.runs.history import RunHistory, Series


def history(name: str, *figures: str) -> RunHistory:
    values = {figure: Series([10, 20], [1.0, float(n)]) for n, figure in enumerate(figures)}
    return RunHistory(name, values)


def titles(runs: list[RunHistory]) -> list[str]:
    return [axes.get_title() for axes in draw_runs(runs).axes if axes.axison]


def test_there_is_a_panel_for_what_a_run_has_and_no_empty_one() -> None:
    assert titles([history("a", "loss_cls")]) == ["Labeled losses"]
    assert titles([history("a", "loss_cls"), history("b", "teacher/bbox/AP")]) == [
        "Average precision",
        "Labeled losses",
    ]
    assert titles([history("a", "unknown")]) == []


def test_the_figures_of_any_method_find_their_place() -> None:
    shown = {
        "teacher/bbox/AP": "Average precision",
        "loss_cls": "Labeled losses",
        "loss_mask_unsup": "Unlabeled losses, before their weight",
        "ssod/pseudo_boxes_per_image": "Boxes per image",
        "ssod/pseudo_score": "Scores of pseudo-labels",
        "ssod/prc_weight_fg": "Weights",
        "pseudo_labels/precision": "Pseudo-labels against hidden labels",
        "ssod/share_of_mixed_images": "Share of mixed images",
    }
    for name, title in shown.items():
        assert titles([history("a", name)]) == [title]
    # All in one picture, each once; a figure that never changes tells nothing.
    run = history("a", *shown)
    run.series["ssod/skipped_images"] = Series([10, 20], [0.0, 0.0])
    assert sorted(titles([run])) == sorted(shown.values())


def test_a_run_is_a_color_and_a_figure_a_style() -> None:
    names = ("teacher/bbox/AP", "student/bbox/AP")
    (axes, _) = draw_runs([history("a", *names), history("b", *names)]).axes
    drawn = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert drawn == [(COLORS[0], "-"), (COLORS[1], "-"), (COLORS[0], "--"), (COLORS[1], "--")]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["teacher", "student"]
    assert list(axes.lines[3].get_ydata()) == [1.0, 1.0]


def test_alone_a_runs_figures_have_colors() -> None:
    (axes, _) = draw_runs([history("a", "loss_cls", "loss_rpn_loc")]).axes
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-"]
    assert len({line.get_color() for line in axes.lines}) == 2
    # And markers, for whom colors say little; the legend shows both.
    assert [line.get_marker() for line in axes.lines] == list(MARKERS[:2])
    shown = [line.get_marker() for line in axes.get_legend().get_lines()]
    assert shown == list(MARKERS[:2])


def test_no_two_of_many_runs_look_alike() -> None:
    looks = [tuple(line_style(number).values()) for number in range(len(COLORS) * len(MARKERS))]
    assert len(set(looks)) == len(looks)
