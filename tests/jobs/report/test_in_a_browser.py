"""The page of a report in Chromium: what a person sees and hears, and what an attacker gets."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import invoke
from tests.jobs.report.history import IMAGE, make_history

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    dataset = make_history(folder)
    done = invoke("report", dataset.root, "--source", folder / "in", "--audio", "4")
    assert done.exit_code == 0, done.output
    return Path(done.output.strip())


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with the page loaded; it starts once for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
        pytest.skip(f"no {CHROMIUM} with {DRIVER} on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def show(browser: Any, width: int, scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_the_page_loads_without_a_complaint_and_asks_nobody_for_anything(browser, page):
    assert browser.title == "out"
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = {one["request"]["url"] for one in sent if one["documentURL"] == page.as_uri()}
    assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}


def test_every_recording_can_be_played_and_every_picture_is_drawn(browser):
    load = """
        const done = arguments[0], sounds = [...document.querySelectorAll('audio')];
        Promise.all(sounds.map(a => new Promise(r => {
            if (a.readyState) r(a.duration);
            a.onloadedmetadata = () => r(a.duration); a.onerror = () => r(-1); a.load();
        }))).then(done)"""
    durations = browser.execute_async_script(load)
    assert len(durations) == 4 * 2
    assert all(seconds > 0.05 for seconds in durations)
    pairs = zip(durations[::2], durations[1::2], strict=True)
    assert all(original == pytest.approx(decoded, abs=0.01) for original, decoded in pairs)
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 8
    assert min(widths) > 0


def test_texts_of_an_attacker_do_nothing_and_are_shown_as_they_are(browser):
    assert browser.title == "out"
    assert browser.execute_script("return document.scripts.length") == 0
    assert IMAGE in browser.execute_script("return document.body.innerText")
    sources = browser.execute_script("return [...document.images].map(i => i.src.slice(0, 15))")
    assert set(sources) == {"data:image/png;"}


def test_a_script_or_request_that_got_into_the_page_would_be_blocked(browser):
    inject = """
        const done = arguments[0], blocked = [];
        document.addEventListener(
            'securitypolicyviolation', e => blocked.push(e.effectiveDirective));
        document.body.insertAdjacentHTML('beforeend',
            '<img class=probe src="http://192.0.2.1/x.png"><iframe class=probe srcdoc="x"></iframe>'
            + '<b class=probe onclick="document.title = 1">x</b>');
        document.querySelector('b.probe').click();
        fetch('http://192.0.2.1/').catch(() => 0).finally(() => setTimeout(() => {
            document.querySelectorAll('.probe').forEach(e => e.remove()); done(blocked) }, 50))"""
    blocked = set(browser.execute_async_script(inject))
    assert {"img-src", "script-src-attr", "connect-src"} <= blocked
    assert browser.title == "out"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_of_the_screen_scrolls_sideways(browser, width):
    show(browser, width)
    size = "return [document.documentElement.scrollWidth, window.innerWidth]"
    content, screen = browser.execute_script(size)
    assert screen == width
    assert content <= width


def test_charts_are_as_wide_as_their_place_and_their_texts_are_not_scaled(browser):
    measure = """return [...document.querySelectorAll('.plot > svg')].map(s => {
        const texts = [...s.querySelectorAll('text')].filter(t => t.getClientRects().length);
        return [s.getBoundingClientRect().width, Math.min(...texts.map(
            t => t.getBoundingClientRect().left)), Math.max(...texts.map(
            t => t.getBoundingClientRect().right)), getComputedStyle(texts[0]).fontSize]})"""
    for width in (360, 1280):
        show(browser, width)
        charts = browser.execute_script(measure)
        assert len(charts) == 4
        for chart_width, left, right, size in charts:
            assert chart_width > width / 2
            assert left >= 0
            assert right <= width
            assert size == "12px"


def test_dark_mode_changes_the_colours_and_keeps_the_contrast(browser):
    read = """return ['body', 'h1', 'small', 'rect.main', 'svg text'].map(s => {
        const style = getComputedStyle(document.querySelector(s));
        if (s == 'body') return style.backgroundColor;
        return s.match(/rect|svg/) ? style.fill : style.color})"""
    schemes = {}
    for scheme in ("light", "dark"):
        show(browser, 1280, scheme)
        schemes[scheme] = [luminance(colour) for colour in browser.execute_script(read)]
    for page, *inks in schemes.values():
        assert all(contrast(page, ink) >= 4.5 for ink in inks)
    assert schemes["light"][0] > 0.9
    assert schemes["dark"][0] < 0.05


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
