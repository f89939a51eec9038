"""Reports in a real browser: Chromium, driven by Playwright."""

import pytest

from balanced_lvis.analysis import Options
from balanced_lvis.report import write_report
from tests.report.browser import PHONE, Page, browser, why_no_browser
from tests.report.made import HOSTILE, made_dataset

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "-")
HOSTILE_RUN = "<img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def running():
    with browser() as found:
        yield found


def report_of(folder, categories: int, images: int, runs: int):
    made = made_dataset(folder / "made", categories, images)
    names = ["Baseline", HOSTILE_RUN][:runs]
    path = folder / "report.html"
    write_report(
        made.runs[:runs], made.annotations, path, names=names, image_root=made.images, options=Options(samples=10)
    )
    return path


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """58 categories, as in the quick start."""
    return report_of(tmp_path_factory.mktemp("two"), 58, 60, 2)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """1,203 categories, as in LVIS; most have no objects."""
    return report_of(tmp_path_factory.mktemp("many"), 1203, 120, 1)


@pytest.fixture(scope="module")
def opened(running, two_runs):
    with Page(running, two_runs, color_scheme="light") as page:
        yield page


@pytest.fixture(scope="module")
def opened_many(running, many):
    with Page(running, many) as page:
        yield page


@pytest.fixture(scope="module")
def opened_dark(running, two_runs):
    with Page(running, two_runs, color_scheme="dark") as page:
        yield page


@pytest.fixture
def page(opened):
    """The report of two runs. After the test, nothing may have gone wrong in the page."""
    opened.reset()
    yield opened
    assert opened.problems == []


@pytest.fixture
def large(opened_many):
    """As ``page``, with 1,203 categories."""
    opened_many.reset()
    yield opened_many
    assert opened_many.problems == []


@pytest.fixture
def dark(opened_dark):
    """As ``page``, in a system with a dark theme."""
    opened_dark.reset()
    yield opened_dark
    assert opened_dark.problems == []


@pytest.fixture(params=[58, 1203])
def either(request):
    """The report with this number of categories, and that number."""
    return request.getfixturevalue("page" if request.param == 58 else "large"), request.param


def names_in_table(page: Page) -> list[str]:
    return page.texts("#category-table .tabulator-row .tabulator-cell[tabulator-field='name']")


def numbers(page: Page, field: str) -> list[float]:
    cells = page.texts(f"#category-table .tabulator-row .tabulator-cell[tabulator-field='{field}']")
    return [float(text.replace("−", "-").replace(",", "")) for text in cells if text != "–"]


def test_the_table_sorts_by_click_and_key_and_searches(either):
    page, categories = either
    field = "ap_1" if categories == 58 else "ap_0"
    assert f"{categories:,} of {categories:,} categories" in page.texts("#category-count")
    header = page.page.locator(f"#category-table .tabulator-col[tabulator-field='{field}']")
    for key, direction in (("Enter", "descending"), ("", "ascending"), ("Space", "descending")):
        if header.get_attribute("aria-sort") != direction:  # the first column may be sorted already
            header.press(key) if key else header.click()
        values = numbers(page, field)
        assert header.get_attribute("aria-sort") == direction
        assert len(values) > 20 and values == sorted(values, reverse=direction == "descending")
        assert (values[0] > values[-1]) == (direction == "descending")
    page.page.locator("#category-search").fill("CATEGORY 57")
    assert set(names_in_table(page)) == {f"category {k}" for k in range(categories) if str(k).startswith("57")}
    page.page.locator("#category-search").fill("nothing of the kind")
    assert names_in_table(page) == [] and page.texts(".tabulator-placeholder") == ["No category matches"]
    page.page.locator("#category-search").fill("")
    page.page.locator("#category-group").select_option("c")
    groups = page.texts("#category-table .tabulator-row .tabulator-cell[tabulator-field='group']")
    assert set(groups) == {"common"} and len(names_in_table(page)) <= 25


def test_pages_of_categories_open_and_close(either):
    page, _ = either
    page.page.locator("#category-search").fill("category 20")
    page.page.get_by_role("link", name="category 20", exact=True).first.click()
    assert page.texts("#category h1") == ["category 20"] and not page.texts("#overview")
    assert page.page.evaluate("document.activeElement.id") == "category-title"
    assert page.page.title().startswith("category 20 – ")
    assert page.texts("#category figure")
    images = "[...document.querySelectorAll('#category svg image')].map((one) => one.href.baseVal)"
    assert all(image.startswith("data:image/webp") for image in page.page.evaluate(images))
    page.page.get_by_role("link", name="Next").click()
    assert page.texts("#category h1") == ["category 21"]
    page.page.go_back()
    page.page.wait_for_function("document.title.startsWith('category 20 ')")
    page.page.get_by_role("link", name="All categories").click()
    page.page.wait_for_selector("#overview", state="visible")
    assert not page.texts("#category")


def test_a_page_of_a_category_has_an_address(running, two_runs):
    with Page(running, two_runs, place="category-210") as page:
        assert page.texts("#category h1") == ["category 20"]
        page.page.get_by_role("link", name="Summary").click()
        assert page.texts("#overview #summary") and page.problems == []


def test_an_open_category_stays_open_and_keeps_the_focus(page):
    page.page.evaluate("location.hash = 'category-210'")
    page.page.wait_for_selector("#category h1")
    page.page.locator(".skip").press("Enter")
    page.page.wait_for_function("location.hash === '#content'")
    assert page.page.evaluate("document.activeElement.id") == "content"
    assert page.texts("#category h1") == ["category 20"] and not page.texts("#overview")
    for selector, key in (("#task-switch input[value=segm]", "ArrowRight"), ("#theme", "Enter"), ("#theme", "Enter")):
        page.page.locator(selector).focus()
        page.page.keyboard.press(key)
        assert page.page.evaluate("document.activeElement.closest('header.bar') !== null")
        assert page.texts("#category h1") == ["category 20"]
    assert "Numbers, boxes" in page.texts("#category h2")


def test_places_on_the_page_are_kept(page):
    """By a redraw of an open category, and of the overview while a category is open."""
    place = "Math.round(scrollY)"
    page.page.evaluate("document.getElementById('categories').scrollIntoView()")
    of_overview = page.page.evaluate(place)
    page.page.evaluate("location.hash = 'category-210'")
    page.page.wait_for_selector("#category h1")
    assert page.page.evaluate(place) == 0
    page.page.evaluate("scrollTo(0, 300)")
    for choice in ("Boxes", "Masks"):
        page.page.locator("#task-switch").get_by_text(choice).click()
        assert f"Numbers, {choice.lower()}" in page.texts("#category h2")
        assert page.page.evaluate(place) == 300
    for _ in range(2):
        page.page.locator("#theme").click()
        assert page.page.evaluate(place) == 300
    page.page.evaluate("scrollTo(0, 0)")
    page.page.get_by_role("link", name="All categories").click()
    page.page.wait_for_selector("#overview", state="visible")
    assert of_overview > 300 and page.page.evaluate(place) == of_overview


def test_an_address_that_is_no_category_opens_the_overview(page):
    page.page.evaluate("location.hash = 'category-210'")
    page.page.wait_for_selector("#category h1")
    page.page.evaluate("location.hash = 'category-%'")
    page.page.wait_for_selector("#overview", state="visible")
    assert not page.texts("#category")


def test_lines_about_a_run_name_it_and_have_its_symbol(page):
    lines = page.page.locator("#images-worst figcaption").first.locator(".line")
    assert [text.partition(":")[0].strip() for text in lines.all_text_contents()] == ["Baseline", HOSTILE_RUN]
    shape = "one => { const s = getComputedStyle(one); return s.borderRadius + s.transform + s.clipPath; }"
    assert len({lines.nth(run).locator(".dot").evaluate(shape) for run in range(2)}) == 2
    page.page.evaluate("location.hash = 'category-210'")
    page.page.wait_for_selector("#category h1")
    headings = page.texts("#category h2")
    assert "Objects detected as (5 most frequent)" in headings
    assert {text.partition(":")[0].strip() for text in page.texts("#category .plain-list li")} == {
        "Baseline",
        HOSTILE_RUN,
    }


def test_captions_say_that_not_all_detections_are_outlined(page):
    figure = "imageFigure(DATA.images[0].worst[0]).textContent"
    assert "outlined" not in page.page.evaluate(figure)
    try:
        page.page.evaluate("DATA.most_marks = 1")
        assert "only the 1 detections with the highest scores are outlined" in page.page.evaluate(figure)
    finally:
        page.page.evaluate("DATA.most_marks = 60")


def test_categories_without_dots_are_counted(large):
    judged = large.page.evaluate("DATA.categories.filter((_, index) => column(0, 'ap', index) !== null).length")
    assert 0 < judged < 1203
    label = large.page.locator("#chart-frequency").get_attribute("aria-label")
    assert label == f"AP of {judged:,} categories against their training images"
    assert large.texts("#frequency-note") == [
        f"Not shown: {1203 - judged:,} categories without objects, which have no AP."
    ]
    large.page.evaluate("DATA.categories.forEach((one, index) => { if (index < 1200) one.training = null; }); redraw()")
    (note,) = large.texts("#frequency-note")
    assert note.startswith("Not shown: 1,200 categories without a known number of training images above 0")
    large.page.reload()
    large.page.wait_for_selector("html[data-ready]")


def test_hostile_names_are_shown_and_do_not_run(page):
    for k, name in enumerate(HOSTILE):
        page.page.evaluate(f"location.hash = 'category-{10 * k + 10}'")
        page.page.wait_for_function(f"document.title.startsWith({name!r}.trim())")
        assert page.texts("#category h1") == [name]
    page.page.evaluate("location.hash = 'categories'")
    page.page.wait_for_selector("#overview", state="visible")
    page.page.locator("#category-search").fill("hacked")
    assert set(names_in_table(page)) == {name for name in HOSTILE if "hacked" in name}
    headers = page.texts("#category-table .tabulator-col-title")
    assert f"AP {HOSTILE_RUN}" in headers
    assert HOSTILE_RUN in page.texts("#summary h3")
    legends = page.page.locator("#chart-frequency .legendtext").all_text_contents()
    assert HOSTILE_RUN in legends
    hover = page.page.evaluate(
        """async () => {
            const chart = document.getElementById("chart-frequency");
            const shown = [];
            for (let index = 0; index < chart.data[0].x.length; index++) {
                Plotly.Fx.hover(chart, [{ curveNumber: 0, pointNumber: index }]);
                await new Promise((done) => setTimeout(done, 60));
                shown.push(chart.querySelector(".hoverlayer").textContent);
                if (shown.at(-1).includes("</script>")) break;
            }
            return shown.join("\\n");
        }"""
    )
    assert "<script>window.hacked = 1</script>" in hover
    assert page.page.evaluate("window.hacked") is None


def test_a_dot_opens_its_category(page):
    where = page.page.evaluate(
        """() => {
            const chart = document.getElementById("chart-frequency");
            chart.emit("plotly_click", { points: [{ customdata: chart.data[0].customdata[30] }] });
            return DATA.categories.find((one) => one.id === chart.data[0].customdata[30][3]).name;
        }"""
    )
    page.page.wait_for_selector("#category h1")
    assert page.texts("#category h1") == [where]


def test_outlines_are_shown_and_hidden_everywhere(page):
    images = page.page.locator("#images")

    def shown(kind: str) -> bool:
        return images.locator(f".mark.{kind} .mask").first.is_visible()

    assert shown("gt") and shown("run-0") and shown("run-1")
    images.get_by_label("Ground truth").uncheck()
    assert not shown("gt") and shown("run-0")
    assert not page.page.locator("#changes").get_by_label("Ground truth").is_checked()
    images.get_by_label("Masks").uncheck()
    assert not shown("run-0")
    images.get_by_label("Boxes").check()
    assert images.locator(".mark.run-0 .box").first.is_visible()
    assert not images.locator(".mark.gt .box").first.is_visible()
    before = page.texts("#images-worst figcaption")
    images.get_by_label("By F1 of").select_option("1")
    assert page.texts("#images-worst figcaption") != before
    images.locator("button.view").first.click()
    dialog = page.page.get_by_role("dialog")
    assert dialog.is_visible() and "false positive" in dialog.inner_text()
    page.page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_masks_and_boxes_and_other_choices_change_the_numbers(page):

    def state() -> list:
        charts = "['intervals', 'errors', 'calibration'].map(n => document.getElementById('chart-' + n).data[0])"
        return page.page.evaluate(f"JSON.stringify({charts}.map(t => [t.x, t.y, t.name]))")

    masks = state()
    assert page.texts("[data-task]") and page.page.locator("[data-task='bbox']").is_hidden()
    page.page.locator("#task-switch").get_by_text("Boxes").click()
    assert page.page.locator("[data-task='segm']").is_hidden() and state() != masks
    boxes = state()
    titles = "['intervals', 'frequency'].map(n => document.getElementById('chart-' + n).layout)"
    titles = f"{titles}.flatMap(l => [l.xaxis.title.text, l.yaxis.title?.text]).filter(text => /AP/.test(text))"
    assert page.page.evaluate(titles) == ["Box AP", "Box AP"]
    page.page.locator("#task-switch").get_by_text("Masks").click()
    assert page.page.evaluate(titles) == ["Mask AP", "Mask AP"]
    page.page.locator("#errors-pool").select_option("r")
    page.page.locator("#calibration-pool").select_option("f")
    assert state() != boxes
    page.page.locator("#frequency-value").select_option("difference")
    assert page.page.evaluate("document.getElementById('chart-frequency').data.length") == 2


def background(page: Page) -> int:
    """Sum of the channels of the page's background."""
    color = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, color.strip("rgb()").split(",")))


def chart_text(page: Page) -> str:
    return page.page.evaluate("getComputedStyle(document.querySelector('#chart-errors .xtick text')).fill")


def test_the_theme_follows_the_system_and_a_button(page, dark):
    light = background(page)
    button = dark.page.get_by_role("button", name="Dark theme")
    assert background(dark) < 150 < 600 < light and button.get_attribute("aria-pressed") == "true"
    text = chart_text(dark)
    button.click()
    assert background(dark) == light and button.get_attribute("aria-pressed") == "false"
    assert chart_text(dark) == chart_text(page) != text
    dark.page.reload()
    dark.page.wait_for_selector("html[data-ready]")
    assert background(dark) == light  # the choice is kept
    dark.page.get_by_role("button", name="Dark theme").click()


def test_a_phone_needs_no_horizontal_scrolling(running, two_runs, many):
    for path in (two_runs, many):
        with Page(running, path, **PHONE) as page:
            assert page.overflow() == 0
            page.page.evaluate("location.hash = 'category-40'")
            page.page.wait_for_selector("#category h1")
            assert page.overflow() == 0 and page.problems == []


def contrast(page: Page, selector: str) -> float:
    """Lowest contrast by WCAG 2 of the texts of elements with their backgrounds."""
    return page.page.evaluate(
        """(selector) => {
            const channels = (color) => color.match(/[\\d.]+/g).map(Number);
            const luminance = (color) => {
                const linear = channels(color).slice(0, 3).map((c) => {
                    const s = c / 255;
                    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
            };
            const background = (one) => {
                for (let at = one; at; at = at.parentElement) {
                    const color = getComputedStyle(at).backgroundColor;
                    if ((channels(color)[3] ?? 1) > 0) return color;
                }
                return "rgb(255, 255, 255)";
            };
            const ratios = [...document.querySelectorAll(selector)].map((one) => {
                const two = [luminance(getComputedStyle(one).color), luminance(background(one))];
                return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
            });
            return Math.min(...ratios);
        }""",
        selector,
    )


TEXTS = (
    "p, a, dt, dd, th, td, h1, h2, h3, h4, label, button:not(:disabled), summary, figcaption, .difference, .interval, "
    ".tabulator-cell *, .tabulator-col-title"
)


@pytest.mark.parametrize("scheme", ["page", "dark"])
def test_texts_have_enough_contrast(request, scheme):
    page = request.getfixturevalue(scheme)
    assert contrast(page, TEXTS) >= 4.5
    page.page.evaluate("location.hash = 'category-100'")
    page.page.wait_for_selector("#category h1")
    assert contrast(page, TEXTS) >= 4.5


def test_everything_has_a_name_and_is_reached_by_keyboard(page):
    unnamed = page.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, svg[role=img], [role=img]")]
            .filter((one) => one.offsetParent !== null || one.ownerSVGElement)
            .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
            .filter((one) => !one.closest(".tabulator-footer"))
            .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []
    assert page.page.locator("main, nav[aria-label], header").count() >= 3
    assert page.page.locator("h1:visible").count() == 1
    page.page.locator(".skip").focus()
    assert page.page.locator(".skip").bounding_box()["x"] >= 0
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for selector in ("#theme", "#category-search", "#images button.view", ".tabulator-sortable", "#task-switch input"):
        assert page.page.locator(selector).first.evaluate("one => one.tabIndex") >= 0
