"""`speechmill codecs`."""

import json

from speechmill.codecs import list_codecs
from tests.jobs.conftest import invoke


def test_codecs_are_listed_with_rates_size_licence_and_paper():
    lines = invoke("codecs").stdout.splitlines()
    [line] = [line for line in lines if line.split()[:1] == ["focalcodec-50hz"]]
    facts = ["0.65", "50", "1 x 8192", "16", "142.1 M", "Apache-2.0", "arXiv 2502.04465"]
    assert all(fact in line for fact in facts)
    assert len(lines) == 1 + len(list_codecs())
    unpinned = {line.split()[0] for line in lines if ", not pinned" in line}
    assert {"mimi", "dualcodec-12hz", "focalcodec-50hz-2k-causal"} <= unpinned
    assert not {"focalcodec-50hz", "simwhisper-16k", "pure-16k-small", "pure-4k"} & unpinned


def test_a_script_reads_the_same_as_json():
    found = {codec["name"]: codec for codec in json.loads(invoke("codecs", "--json").stdout)}
    assert list(found) == list_codecs()
    assert found["dualcodec-12hz"]["codebook_sizes"] == [16384] + 7 * [4096]
    assert found["dualcodec-12hz"]["num_semantic_codebooks"] == 1
    roles = ["checkpoint", "semantic_checkpoint", "semantic_stats"]
    assert found["dualcodec-12hz"]["unpinned"] == roles
    assert "#sha256=" in found["simwhisper-16k"]["files"]["checkpoint"]
