"""The HTML of reports: read back by a parser that knows which tags may stand in which."""

import re
from html.parser import HTMLParser

import pytest

from stableft.report.figures.draw import draw_panels
from stableft.report.figures.panels import Curve, CurvePanel
from stableft.report.forms.document import (
    Bullets,
    Column,
    DataTable,
    Heading,
    OriginCount,
    Paragraph,
    Picture,
    Provenance,
    Report,
    ReportTable,
    Row,
    Value,
)
from stableft.report.forms.html import reports_to_html
from stableft.report.forms.write import render_report

ODD = '<b>"5 & 6"</b> {{ title }} {% raw %}'
VOID = {"meta", "img", "br"}
GRID = ReportTable(
    "means-1",
    ("", "RTE", "MRPC", "RTE"),
    (
        (ODD, "69.5 ± 2.5", Value("90.8", bold=True), Value("72.3", mark="*†")),
        (Value("difference", under=True), "+0.1", "a sentence that is longer than a number", ""),
    ),
    caption=f"Bold by `Student's` t-test {ODD}",
    groups=(("", 1), ("Longer", 2)),
    notes=(f"a note {ODD}",),
)
RUNS = (
    OriginCount("mosbach", "rte", "this project", 20, 25),
    OriginCount("theirs", "rte", "logs (zhang-logs, sha256 0a1b)", 9, 9),
)
PROVENANCE = Provenance(RUNS, (("cpu, torch 2", 1), ("gpu, torch 2", 19)), ("0123456789abcdef", "fedcba9876543210"))


class Reader(HTMLParser):
    """Collects elements as (tag, attributes, text), and asserts that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        for element in self.stack:
            element[2] += data

    def texts(self, tag, **attributes):
        found = (e for e in self.elements if e[0] == tag and attributes.items() <= e[1].items())
        return [" ".join(text.split()) for _, _, text in found]

    def attributes(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


def figure():
    return draw_panels([CurvePanel("RTE", "step", "loss", (Curve(ODD, (1.0, 2.0), (0.7, 0.1)),))])


def report(*blocks, id="mine", title="My report", **more):
    return Report(id, title, blocks, **more)


def page(*reports):
    return Reader(reports_to_html(reports, "A page"))


def test_one_report_is_a_page():
    made = report(Heading("Scores"), Heading("Deeper", 3), Paragraph("Text."), Heading("Notes", 4), Bullets(("a", "b")))
    found = page(made)
    assert found.texts("title") == ["A page"]
    assert [found.texts(f"h{rank}") for rank in range(1, 5)] == [["My report"], ["Scores"], ["Deeper", "Notes"], []]
    assert found.texts("p") == ["Text."]
    assert found.texts("li") == ["a", "b"]
    assert found.attributes("nav") == []
    assert found.attributes("footer") == []
    assert render_report(made, "html") == reports_to_html([made], "My report")


def test_several_reports_have_contents_that_lead_to_them():
    reports = [report(id=name, title=f"Title {i}") for i, name in enumerate(("a b", "a.b", "contents", "a-b-2"))]
    found = page(*reports)
    links = [link["href"] for link in found.attributes("a")]
    sections = [section["id"] for section in found.attributes("section")]
    assert found.texts("h1") == ["A page"]
    assert found.texts("h2") == [f"Title {i}" for i in range(4)]
    assert links[:4] == [f"#{anchor}" for anchor in sections]
    assert len({*sections, "contents"}) == 5
    assert links[4:] == ["#contents"] * 4
    assert found.texts("nav") == ["Title 0 Title 1 Title 2 Title 3"]


def test_nothing_is_fetched_or_run():
    text = reports_to_html(
        [report(Picture("loss", "losses"), figures={"loss": figure}, provenance=PROVENANCE)] * 2, "A page"
    )
    assert "//" not in text
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    found = Reader(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _, _ in found.elements}
    assert not [name for _, attributes, _ in found.elements for name in attributes if name.startswith("on")]
    assert found.attributes("img") == []
    addresses = {value for _, attributes, _ in found.elements for name, value in attributes.items() if "href" in name}
    assert all(address.startswith("#") for address in addresses)
    (policy,) = (meta["content"] for meta in found.attributes("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_a_grid_is_a_table_that_can_be_read_aloud():
    found = page(report(GRID))
    assert found.texts("caption") == [f"Bold by Student's t-test {ODD}"]
    assert found.texts("code") == ["Student's"]
    assert found.texts("th", scope="col") == ["RTE", "MRPC", "RTE"]
    assert found.texts("th", scope="colgroup") == ["Longer"]
    assert found.texts("th", scope="row") == [ODD, "difference"]
    assert found.texts("tr", **{"class": "part"})[0].startswith("difference")
    assert found.texts("strong") == ["90.8"]
    assert found.texts("sup") == ["*†"]
    assert "72.3*†" in found.texts("td")
    assert found.texts("td", **{"class": "long"}) == ["a sentence that is longer than a number"]
    assert found.texts("ul", **{"class": "notes"}) == [f"a note {ODD}"]
    (region,) = (div for div in found.attributes("div") if "role" in div)
    assert region["tabindex"] == "0"


def test_the_rows_of_a_table_are_equally_wide():
    rows, width = [], 0
    for tag, attributes, _ in page(report(GRID)).elements:
        if tag == "tr":
            rows.append(0)
        if tag in ("td", "th"):
            rows[-1] += int(attributes.get("colspan", 1))
        if tag == "colgroup":
            width += int(attributes.get("span", 1))
    assert rows == [4, 4, 4, 4]
    assert width == 4


def test_a_grid_without_a_caption_has_the_heading_above_for_those_who_hear():
    grids = [ReportTable("g", ("arm", "n"), (("a", "1"),)) for _ in range(2)]
    found = page(report(grids[0], Heading("RTE: accuracy"), grids[1]))
    assert found.texts("caption", **{"class": "unseen"}) == ["My report", "RTE: accuracy"]


def test_what_a_user_wrote_is_text():
    text = reports_to_html(
        [report(Heading(ODD), Paragraph(ODD), Bullets((ODD, "odd ` one")), title=ODD, undrawn={"x": ODD})], ODD
    )
    found = Reader(text)
    assert "b" not in {tag for tag, _, _ in found.elements}
    assert found.texts("title") == found.texts("h1") == found.texts("h2") == [ODD]
    assert found.texts("li") == [ODD, "odd ` one"]
    assert found.texts("p") == [ODD, f"There is no figure of x: {ODD}."]


def test_a_figure_is_inside_with_words_for_it():
    made = report(Picture("loss", f"losses {ODD}"), figures={"loss": figure, "other": figure})
    found = page(made)
    images = found.attributes("svg")
    assert [image["aria-label"] for image in images] == [f"losses {ODD}", "My report: other"]
    assert {image["role"] for image in images} == {"img"}
    assert ODD in found.texts("text")
    assert "b" not in {tag for tag, _, _ in found.elements}


def test_the_figures_of_a_page_share_no_id_and_find_their_own():
    made = report(Picture("loss", "losses"), figures={"loss": figure, "other": figure})
    text = reports_to_html([made, made], "A page")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)} <= set(ids)
    assert text.count(".figure *{") == 4


def test_the_titles_of_points_survive():
    made = report(Picture("loss", "losses"), figures={"loss": figure})
    made.svg_cache["loss"] = (
        b'<svg viewBox="0 0 20 10"><metadata>m</metadata><g id="p"><title>seed 7: 51.2 &amp; failed</title></g></svg>'
    )
    found = page(made)
    assert found.texts("title") == ["A page", "seed 7: 51.2 & failed"]
    assert found.texts("metadata") == []
    assert [element["id"] for element in found.attributes("g")] == ["mine-loss", "mine-loss-p"]


def test_the_front_page_has_a_picture_and_a_verdict_of_each_report():
    rows = [Row("difference", {"compatible": Value("yes", fits)}) for fits in (True, False, None)]
    sweep = report(
        Picture("loss", "losses"),
        id="sweep",
        figures={"loss": figure},
        facts={"in_words": {"rte": f"All fail {ODD}."}},
        provenance=PROVENANCE,
    )
    two = report(id="two", facts={"in_words": {"rte": "None fails.", "cola": "Three fail."}})
    table = report(id="table", data={"cells": DataTable((Column("compatible"),), tuple(rows))})
    found = page(sweep, two, table)
    items = found.texts("li")[:3]
    assert items[0].endswith(f"My report All fail {ODD}. 29 runs, 9 of them imported.")
    assert items[1] == "My report RTE: None fails. CoLA: Three fail."
    assert items[2] == "My report 1 of 2 means are compatible with the published ones."
    (thumbnail,) = (svg for svg in found.attributes("svg") if "aria-hidden" in svg)
    assert thumbnail["viewbox"]
    assert found.attributes("use")[0]["href"] == "#sweep-loss"
    assert page(sweep).attributes("nav") == []


def test_a_figure_that_cannot_be_drawn_is_said():
    found = page(report(Picture("loss", "losses"), undrawn={"loss": "no record has evaluations"}))
    assert found.attributes("img") == []
    assert found.texts("p") == ["There is no figure of loss: no record has evaluations."]


def test_where_the_numbers_come_from():
    found = page(report(provenance=PROVENANCE))
    assert found.texts("em") == ["not this project's runs"]
    cells = found.texts("td")
    assert cells[:4] == ["rte", "this project", "20", "25"]
    assert cells[4:] == ["rte", "logs (zhang-logs, sha256 0a1b), not this project's runs", "9", "9"]
    assert found.texts("th", scope="row") == ["mosbach", "theirs"]
    assert found.texts("li") == ["1 run: cpu, torch 2", "19 runs: gpu, torch 2"]
    assert found.texts("summary") == ["2 run ids"]
    assert found.texts("details") == ["2 run ids 0123456789abcdef fedcba9876543210"]


@pytest.mark.parametrize("part", ["details::details-content", "break-inside: avoid", "prefers-color-scheme: dark"])
def test_paper_and_screens_have_their_styles(part):
    text = reports_to_html([report()], "A page")
    style = text[text.index("<style>") : text.index("</style>")]
    assert part in style
    assert style.count("{") == style.count("}")
    dark, paper = style.index("@media screen and (prefers-color-scheme: dark)"), style.index("@media print")
    assert (style.index(part) > paper) == (part != "prefers-color-scheme: dark")
    assert dark < paper


def test_equal_reports_are_equal_files():
    def make():
        return reports_to_html(
            [report(GRID, Picture("loss", "l"), figures={"loss": figure}, provenance=PROVENANCE)], "A page"
        )

    assert make() == make()


def test_no_report_is_an_empty_page():
    found = page()
    assert found.texts("h1") == ["A page"]
    assert found.attributes("section") == []


def test_the_corner_of_a_narrow_table_keeps_its_columns():
    table = ReportTable("narrow", ("", "a"), tuple((f"row {i}", str(i)) for i in range(3)))
    page = reports_to_html([Report("a", "A", (table,)), Report("b", "B", (table,))], "both")
    corner = re.search(r'<span class="corner"[^>]*>(.*?)\n</span>', page, re.DOTALL)
    assert corner
    assert re.findall(r"<span>(.*?)</span>", corner[1]) == [
        text for i in range(3) for text in (f"row {i}", str(i), "", "", "")
    ]


@pytest.mark.parametrize(
    ("characters", "classes"), [(100, ""), (120, " wide whole"), (150, " wide widest whole"), (170, " wide widest")]
)
def test_a_wide_table_is_printed_small_and_its_cells_stay_whole_while_they_fit_the_page(characters, classes):
    table = ReportTable("t", ("arm", "n"), (("a" * (characters - 20), "n" * 20),))
    assert f'<div class="grid{classes}">' in render_report(Report("r", "title", (table,)), "html")
