"""The HTML report: all contents are in it, and names are escaped."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from edgekit.report.conversion_report import VariantReport
from edgekit.report.html import page
from edgekit.report.pruning_report import GroupReport, ModelReport, PruningReport
from edgekit_converters.records import Latency, Parity

NAMES = "litert", "openvino"
pytestmark = pytest.mark.needs_jinja2


def pruning(value=0.5, became="pruned"):
    models = tuple(
        ModelReport(model, engine, scheme, 1000, 9000, 4000, value, Latency(0.1 * place, 0.2 * place, 9))
        for place, model in enumerate((became, "dense"), 1)
        for engine in NAMES
        for scheme in ("float32", "int8-static")
    )
    groups = (GroupReport("<b>&conv", "channels", 16, 8),)
    whole = (("head", "it is an <output>"),)
    return PruningReport(
        "--prune 0.5", "l2", 0.5, None, None, "accuracy", value, value, groups, whole, (), models, ("1 < 2",)
    )


class Page(HTMLParser):
    """Parse a page, count its tags and collect its text."""

    def __init__(self, text):
        super().__init__()
        self.tags = {}
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_data(self, data):
        self.words += data + " "


def test_the_page_shows_the_dense_and_the_pruned_model():
    parsed = Page(page("<net>", "accuracy", (), pruning(), ("a & b",)))
    assert parsed.tags["circle"] == 8 + 2  # and the legend
    assert parsed.tags["line"] == 4
    assert parsed.tags["tr"] == 1 + 8 + 1 + 1
    assert "b" not in parsed.tags
    for text in ("<net>: pruned", "<b>&conv", "not pruned: head: it is an <output>", "a & b", "original int8-static"):
        assert text in parsed.words


def test_a_model_that_was_only_trained_is_not_called_pruned():
    made = replace(pruning(became="trained"), goal="--quantize-aware int8-static", groups=(), whole=())
    parsed = Page(page("net", "accuracy", (), made, ()))
    assert parsed.tags["line"] == 4
    assert parsed.tags["tr"] == 1 + 8
    for text in ("net: trained", "--quantize-aware int8-static. Nothing was pruned.", "original int8-static"):
        assert text in parsed.words
    assert "dense" not in parsed.words


def test_labels_of_close_points_do_not_overlap():
    text = page("net", "accuracy", (), pruning(), ())
    placed = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">(?:original|pruned)', text)
    assert len(placed) == 8
    at = [(float(x), float(y)) for x, y in placed]
    near = [(a, b) for a in at for b in at if a < b and abs(a[0] - b[0]) < 100 and abs(a[1] - b[1]) < 13]
    assert near == []


def test_without_a_value_there_is_no_chart():
    models = tuple(replace(one, value=None) for one in pruning().models)
    parsed = Page(page("net", None, (), replace(pruning(), models=models), ()))
    assert "svg" not in parsed.tags
    assert parsed.tags["table"] == 2


def test_a_conversion_without_pruning_has_a_page():
    parity = Parity("scores", 0.1, 40.0, 1.0)
    variants = [
        VariantReport(name, name, "cpu", "float32", 4000, 0.9, 0.9, 0.0, parity, Latency(1.0, 2.0, 9)) for name in NAMES
    ]
    parsed = Page(page("net", "accuracy", variants, None, ()))
    assert parsed.tags["circle"] == 2 + 2
    assert parsed.tags["table"] == 1
    assert "90.00 %" in parsed.words
