"""training/log.py: the table, the curve, and what is said."""

from xml.etree import ElementTree

import pytest

from training import log

HISTORY = [
    {"step": 20, "loss": 5.5, "held_out_loss": 5.4},
    {"step": 40, "loss": 4.5, "held_out_loss": 5.0},
    {"step": 60, "loss": 4.0, "held_out_loss": 4.9},
]


def test_both_losses_are_drawn_over_the_steps():
    pytest.importorskip("matplotlib")
    (axes,) = log.loss_figure(HISTORY).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert curves == {
        "training": [[20, 5.5], [40, 4.5], [60, 4.0]],
        "held out": [[20, 5.4], [40, 5.0], [60, 4.9]],
    }
    assert axes.get_xlabel() == "step" and "nats" in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)


def test_the_curve_is_an_svg_and_always_the_same(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        log.write_curve(tmp_path / name, HISTORY)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"training", "held out", "step"} <= {text.text for text in root.findall(".//{*}text")}
    assert {path.name for path in tmp_path.iterdir()} == {"a.svg", "b.svg"}


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
    path = tmp_path / "log.csv"
    log.write_table(path, HISTORY)
    before = path.read_bytes()
    broken = [*HISTORY, {"another column": 1}]
    with pytest.raises(ValueError, match="another column"):
        log.write_table(path, broken)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_only_what_takes_long_is_said(capsys):
    with log.said_if_slow("reading", seconds=3600):
        pass
    with log.said_if_slow("encoding", seconds=0):
        err = ""
        while "encoding" not in err:
            err += capsys.readouterr().err
    assert "reading" not in err
