"""The page of `atgcn serve` in headless Chromium."""

import contextlib
import csv
import shutil
import threading
import time

import numpy as np
import pytest
import soundfile
from runs_support import FRONTEND, VOCABULARY, trained, waveforms

from atgcn_jax import Tagger

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("selenium", reason="needs selenium")
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from atgcn_jax.runs.thresholds import Thresholds
from atgcn_jax.serving.web import server
from atgcn_jax.serving.web.app import make_app
from atgcn_jax.serving.web.limits import Limits
from atgcn_jax.serving.web.results import Analysis

BROWSERS, DRIVER = ("chromium", "google-chrome", "chromium-browser"), "chromedriver"
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not (BROWSER and shutil.which(DRIVER)), reason="needs Chromium and chromedriver"
  ),
]
WAIT = 120
DROP = """
const transfer = new DataTransfer();
transfer.items.add(arguments[0].files[0]);
for (const kind of ['dragenter', 'dragover', 'drop']) {
  document.body.dispatchEvent(
    new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
}
"""


@pytest.fixture(scope="module")
def address():
  tagger = Tagger.restore(trained())
  tagger._thresholds = Thresholds(tagger.step, dict.fromkeys(VOCABULARY.ids, 0.3))
  analysis = Analysis(tagger, Limits(megabytes=1, seconds=30))
  with server.listen("127.0.0.1", 0) as listening:
    app = make_app(analysis, "tiny run")
    config = uvicorn.Config(app, ws="none", http="h11", log_config=None)
    served = uvicorn.Server(config)
    thread = threading.Thread(target=served.run, kwargs={"sockets": [listening]})
    thread.start()
    yield server.address_of(listening, "127.0.0.1")
    served.should_exit = True
    thread.join()


@pytest.fixture
def downloads(tmp_path):
  return tmp_path / "downloads"


@pytest.fixture
def browser(downloads):
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  for argument in (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--autoplay-policy=no-user-gesture-required",
  ):
    options.add_argument(argument)
  service = webdriver.ChromeService(executable_path=shutil.which(DRIVER))
  with contextlib.closing(Quitting(webdriver.Chrome(options=options, service=service))) as opened:
    yield opened.driver


class Quitting:
  """A browser that `close` ends."""

  def __init__(self, driver):
    self.driver, self.close = driver, driver.quit


@pytest.fixture
def page(browser, address):
  browser.get(address)
  until(browser, lambda: "6 labels" in text(browser, "#model"))
  return browser


def until(browser, holds):
  WebDriverWait(browser, WAIT, poll_frequency=0.05).until(lambda _: holds())


def text(browser, selector):
  return browser.find_element(By.CSS_SELECTOR, selector).text


def all_texts(browser, selector):
  return browser.execute_script(  # at one moment, as the page may replace them
    "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector
  )


def choose(browser, path):
  browser.find_element(By.ID, "file").send_keys(str(path))


def shown(browser):
  until(browser, lambda: browser.find_element(By.ID, "result").is_displayed())


@pytest.fixture
def sound(tmp_path):
  path = tmp_path / "three.wav"
  soundfile.write(path, np.concatenate(list(waveforms(3, 9)[0])), FRONTEND.sample_rate)
  return path


def drop(browser, path):
  """Drop a file on the page, from an input of the test."""
  browser.execute_script(
    "const i = document.createElement('input'); i.type = 'file'; i.id = 'of-test';"
    "document.body.append(i);"
  )
  source = browser.find_element(By.ID, "of-test")
  source.send_keys(str(path))
  browser.execute_script(DROP, source)


def left_of_cursor(browser):
  return float(
    browser.execute_script("return parseFloat(document.getElementById('cursor').style.left)")
  )


def set_rule(browser, name, value):
  browser.execute_script(
    "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    "s.dispatchEvent(new Event('input'));",
    name,
    value,
  )


def test_drop_see_play_and_download(page, sound, downloads):
  drop(page, sound)
  shown(page)
  set_rule(page, "least", "0.2")
  csv_link = page.find_element(By.CSS_SELECTOR, "[data-format=csv]")
  until(page, lambda: "min_score=0.2" in csv_link.get_attribute("href"))
  names = {"Hum", "Drone", "Whistle", "Piping", "Hiss", "Squeak"}
  assert set(all_texts(page, ".label.found")) <= names
  assert set(all_texts(page, ".span")) == set(all_texts(page, ".label.found"))
  dark = page.execute_script(
    "const c = document.getElementById('spectrogram');"
    "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    "return d.filter((x, i) => i % 4 === 0 && x < 100).length"
  )
  assert dark > 100
  assert page.find_elements(By.CSS_SELECTOR, "#graph circle")

  page.find_element(By.ID, "play").click()
  until(page, lambda: left_of_cursor(page) > 10)
  assert text(page, "#play") == "Pause"
  page.find_element(By.ID, "play").click()
  until(page, lambda: text(page, "#play") == "Play")

  csv_link.click()
  file = downloads / "three.wav.csv"
  until(page, lambda: file.exists() and file.stat().st_size)  # Chromium first makes an empty file
  rows = list(csv.DictReader(file.read_text().splitlines()))
  assert len(rows) == len(all_texts(page, "#found tbody tr"))
  assert rows[0]["file"] == "three.wav"
  assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_keys_move_the_cursor(page, sound):
  choose(page, sound)
  shown(page)
  track = page.find_element(By.ID, "track")
  track.send_keys(Keys.ARROW_RIGHT)
  until(page, lambda: abs(left_of_cursor(page) - 100 / 3) < 1)
  track.send_keys(Keys.END)
  assert track.get_attribute("aria-valuenow") == "3.0"
  track.send_keys(Keys.HOME)
  track.send_keys(" ")
  until(page, lambda: left_of_cursor(page) > 5)


def test_a_recording_is_scored(page):
  record = page.find_element(By.ID, "record")
  record.click()
  until(page, lambda: "Stop" in record.text)
  time.sleep(1.5)  # of the beeps of Chromium's fake microphone
  record.click()
  shown(page)
  assert text(page, "#name").startswith("recording ")
  assert text(page, "#error") == ""


def test_a_second_click_does_not_record_again(page):
  page.execute_script(
    "const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media);"
    "window.asked = 0;"
    "media.getUserMedia = (what) => { window.asked += 1; return ask(what); };"
    "const record = document.getElementById('record'); record.click(); record.click();"
  )
  until(page, lambda: "Stop" in text(page, "#record"))
  assert page.execute_script("return window.asked") == 1
  time.sleep(0.5)
  page.find_element(By.ID, "record").click()
  shown(page)


def test_the_shortest_detection_leaves_the_thresholds(page, sound):
  choose(page, sound)
  shown(page)
  assert text(page, "#least-value") == "as tuned"
  set_rule(page, "shortest", "0.5")
  csv_link = page.find_element(By.CSS_SELECTOR, "[data-format=csv]")
  until(page, lambda: csv_link.get_attribute("href").endswith("?min_seconds=0.5"))
  assert text(page, "#least-value") == "as tuned"
  set_rule(page, "least", "0.2")
  assert text(page, "#least-value") == "0.20"


def test_remarks_name_the_file(page, tmp_path):
  path = tmp_path / "loud.wav"
  soundfile.write(path, 32768 * waveforms(1, 9)[0][0], FRONTEND.sample_rate, subtype="FLOAT")
  choose(page, path)
  shown(page)
  assert text(page, "#remarks").startswith("loud.wav: samples reach ")


def test_mistakes_are_one_sentence(page, tmp_path):
  for name, content, sentence in (
    ("a.wav", b"not sound", "a.wav: cannot be read as sound"),
    ("<b>.wav", b"x" * 2_000_000, "<b>.wav has 2.0 MB; this server accepts 1.0 MB."),
  ):
    path = tmp_path / name
    path.write_bytes(content)
    choose(page, path)
    until(page, lambda: sentence in text(page, "#error"))  # noqa: B023
  assert not page.find_element(By.ID, "result").is_displayed()


def test_the_page_of_the_api(browser, address):
  browser.get(f"{address}api")
  until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#operations section")) == 4)
  assert "/api/sounds" in text(browser, "#operations")
  assert "Detection" in all_texts(browser, "#schemas h3")
