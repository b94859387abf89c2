from speechmill.pipeline.dataset.reader import TokenReader
from tests.conftest import REPOSITORY
from tests.test_docs import blocks
from tests.token_parts import make_token_dataset


def test_the_page_on_training_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_token_dataset("demo/tokens", [[9, 20, 30], [40] * 7])
    make_token_dataset("demo/more", [[5] * 9])
    found: dict = {}
    for block in blocks(REPOSITORY / "docs/guide/train-on-tokens.md", "python"):
        exec(block, found)
    assert found["mask"].shape == (2, 1, 512, 512)
    assert found["targets"].shape == (2, 512)
    assert [len(batch["key"]) for batch in found["rest"]] == [2, 2, 2]
    assert isinstance(found["reader"], TokenReader)
    assert next(iter(found["reader"]))["input_ids"].shape == (512,)
