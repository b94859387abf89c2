"""The README is held to what it says; `test_docs.py` checks its commands and links."""

import re

from speechmill.codecs import codec_card, codec_info, list_codecs
from speechmill.codecs.family import UNPUBLISHED
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def weights(name: str) -> str:
    card = codec_card(name)
    if card.licence == UNPUBLISHED:
        return "none" if codec_info(name).trained else "untrained"
    kind = "included" if card.files["checkpoint"].startswith("package:") else "published"
    return f"{kind}, {'unknown licence' if card.licence == 'unknown' else card.licence}"


def test_the_table_of_codecs_names_every_codec_with_its_weights():
    listed = []
    for row in re.findall(r"^\| (`.*) \|$", section("Codecs"), re.MULTILINE):
        codecs, kept, rates, paper = row.split(" | ")
        names = re.findall(r"`(.+?)`", codecs)
        listed += names
        infos = [codec_info(name, checkpoint="untrained") for name in names]
        assert {weights(name) for name in names} == {kept.split(":")[0]}
        assert {codec_card(name).paper for name in names} == {paper}
        ends = {f"{edge(info.kbps for info in infos):.2f}": None for edge in (min, max)}
        assert rates == " to ".join(ends)
    assert sorted(listed) == list_codecs()


def test_the_lines_from_python_give_the_shapes_that_they_state(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    [snippet] = re.findall(r"```python\n(.*?)```", section("From Python"), re.DOTALL)
    lines = [line for line in snippet.splitlines() if line]
    assert len(lines) == 6
    found: dict = {}
    exec(snippet, found)
    for name, shape in re.findall(r"^(\w+_B\w+) = .*# (\(.*\))$", snippet, re.MULTILINE):
        assert str(tuple(found[name].shape)) == shape
    assert found["audio_BT"].abs().max() > 0.05
