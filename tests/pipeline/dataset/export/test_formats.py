"""Every format is read back by the library that its users read it with."""

import json
import re

import numpy as np
import pytest
import yaml

from speechmill.codecs import codec_card
from speechmill.pipeline.dataset.export.exporter import Export, export_dataset
from speechmill.pipeline.dataset.export.ids import PatternIds, TemplateIds, ids_from
from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.templates import make_template
from tests.pipeline.dataset.export.odd_dataset import SIZES, odd_dataset, stored
from tests.pipeline.dataset.export.readers import READERS, indexed_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return odd_dataset(str(tmp_path_factory.mktemp("odd") / "tokens"))


def export(dataset, folder, format, ids):
    for _ in export_dataset(dataset, str(folder), Export(format, ids, len(SIZES))):
        pass
    return ids_from(json.loads((folder / "export.json").read_text()))


IDS = {
    "flatten": PatternIds(make_pattern("flatten", SIZES), first_id=128_256),
    "parallel": PatternIds(make_pattern("parallel", SIZES)),
    "delay": PatternIds(make_pattern("delay", SIZES)),
    "semantic": PatternIds(make_pattern("semantic", SIZES)),
    "before": TemplateIds(make_template(make_pattern("flatten", SIZES), "before")),
    "before, in streams": TemplateIds(make_template(make_pattern("delay", SIZES), "before")),
}


CASES = [
    *(("flatten", format) for format in READERS if format != "lhotse"),
    *(("before", format) for format in READERS if format != "lhotse"),
    *(("parallel", format) for format in READERS if format != "megatron"),
    *(("delay", format) for format in READERS if format not in ("megatron", "lhotse")),
    *(("semantic", format) for format in ("lhotse", "kaldi")),
    *(("before, in streams", format) for format in ("hf", "webdataset")),
]


@pytest.mark.parametrize(("name", "format"), CASES)
def test_what_its_library_reads_are_the_stored_codes(dataset, tmp_path, format, name):
    ids = export(dataset, tmp_path / "to", format, IDS[name])
    found = list(READERS[format](tmp_path / "to"))
    for (key, read), (wanted, _, codes_FK) in zip(found, stored(dataset), strict=True):
        assert key in (wanted, None)
        [decoded_FK] = ids.codes_of(read)
        kept = 1 if name == "semantic" else len(SIZES)
        np.testing.assert_array_equal(decoded_FK, codes_FK[:, :kept])


def test_documents_with_text_give_it_back(dataset, tmp_path):
    template = make_template(make_pattern("flatten", SIZES), "before", without_text="skip")
    ids = export(dataset, tmp_path / "to", "megatron", TemplateIds(template))
    documents = [document for _, document in READERS["megatron"](tmp_path / "to")]
    texts = [ids.template.texts_of(document) for document in documents]
    assert texts == [[text] for _, text, _ in stored(dataset) if text is not None]


def test_megatron_reads_the_blend_as_weights_and_prefixes(dataset, tmp_path):
    export(dataset, tmp_path / "to", "megatron", IDS["flatten"])
    words = (tmp_path / "to" / "blend.txt").read_text().split()  # as --data-args-path is read
    sizes = [len(indexed_dataset()(prefix)) for prefix in words[1::2]]
    assert sum(sizes) == len(stored(dataset))
    assert sum(map(int, words[::2])) == sum(codes_FK.size for *_, codes_FK in stored(dataset))


def test_a_cut_has_its_text_the_times_of_its_source_and_metadata_that_is_no_recording(
    dataset, tmp_path
):
    from lhotse import CutSet

    export(dataset, tmp_path / "to", "lhotse", IDS["parallel"])
    cuts = CutSet.from_shar(in_dir=tmp_path / "to" / "data")
    for cut, (key, text, codes_FK) in zip(cuts, stored(dataset), strict=True):
        assert [s.text for s in cut.supervisions] == [text] * (text is not None)
        assert (cut.codes.frame_shift, cut.codes.shape) == (1 / 50, list(codes_FK.shape))
        assert cut.codes.array.shape[0] == round(cut.custom["source_end"] * 50)
        assert (cut.custom["key"], json.loads(cut.custom["metadata"])["sources"]) == (key, [])
        second_frame = cut.truncate(offset=0.02, duration=0.02).load_codes()
        np.testing.assert_array_equal(second_frame, codes_FK[1:2])


@pytest.mark.parametrize("name", ["parallel", "before"])
def test_the_card_is_the_header_of_a_dataset_and_its_examples_give_audio(dataset, tmp_path, name):
    export(dataset, tmp_path / "to", "hf", IDS[name])
    _, header, body = (tmp_path / "to" / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(header)["speechmill"]
    assert (facts["codec"], facts["output_sample_rate"], facts["frame_rate"]) == ("null", 16000, 50)
    assert facts["licence_of_weights"] == codec_card("null").licence
    found: dict = {}
    for example in re.findall(r"```python\n(.*?)```", body, re.DOTALL):
        exec(example.replace("PATH", str(tmp_path / "to")), found)
    np.testing.assert_array_equal(found["codes_FK"], stored(dataset)[0][2])
    assert found["audio_BT"].shape == (1, 320 * len(found["codes_FK"]))
