"""Every codec has a model card, and the cards say what they should."""

import re

import pytest

from speechmill.codecs import codec_card, list_codecs
from tests.conftest import REPOSITORY

CARDS = REPOSITORY / "docs/cards"
PAGES = sorted(path for path in CARDS.glob("*.md") if path.name != "README.md")


def named(text: str) -> set[str]:
    return set(re.findall(r"`([a-z0-9_.-]+)`", text)) & set(list_codecs())


def test_the_list_of_cards_leads_to_the_card_of_every_codec():
    rows = re.findall(r"^\| \[.*\]\((.*)\) \| (.*) \|$", (CARDS / "README.md").read_text(), re.M)
    assert {link for link, _ in rows} == {page.name for page in PAGES}
    listed = [name for _, codecs in rows for name in sorted(named(codecs))]
    assert sorted(listed) == sorted(set(list_codecs()) - {"null"})
    for link, codecs in rows:
        assert named(codecs) <= named((CARDS / link).read_text()) | {link.removesuffix(".md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_card_names_paper_training_or_lack_of_it_scores_and_limits(page):
    text = page.read_text()
    papers = {codec_card(name).paper for name in named(text)} or {codec_card(page.stem).paper}
    assert all(paper.removeprefix("arXiv ") in text for paper in papers)
    assert "trained on" in text.lower() or "untrained" in text
    assert "**Scores**" in text
    assert "**Not for**" in text
