"""Codecs side by side, on speech that ships with the project."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from rich.console import Console

from speechmill.codecs import registry
from speechmill.jobs.commands.evaluate import evaluate_codecs
from speechmill.jobs.config import load_config
from speechmill.jobs.display import Display
from speechmill.jobs.evaluation.results import METRICS as METRIC_FORMATS
from speechmill.jobs.schemas import EvaluateConfig
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.bootstrap import bootstrap_interval
from tests.conftest import REPOSITORY
from tests.corpus import encode, tar_bytes, tone
from tests.jobs.commands.tiny_models import save_ctc, save_xvector
from tests.jobs.conftest import invoke
from tests.pcm_codec import PcmCodec
from tests.test_docs import module_of

METRICS = "signal: [stoi, si_sdr, mel, stft], processes: 1"
PCM = "{8 bit: {name: pcm, num_codebooks: [1]}, 16 bit: {name: pcm}}"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Evaluate in this process, with a codec that is known to be lossless."""
    monkeypatch.setitem(registry.FAMILIES, "pcm", "tests.pcm_codec")

    def run(clips, *overrides, codecs=PCM, metrics=METRICS):
        path = tmp_path / "evaluate.yaml"
        path.write_text(
            f"clips: ['{clips}']\noutput: '{tmp_path}/out'\ncodecs: {codecs}\n"
            f"metrics: {{{metrics}}}\ndevice: cpu\nmax_clips: 3\nreport_clips: 2\n"
        )
        config = load_config(EvaluateConfig, path, list(overrides))
        evaluate_codecs(config, Display(Console(file=io.StringIO())))
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return run


SAMPLES = REPOSITORY / "samples" / "en"


def test_the_better_of_two_codecs_has_the_better_scores(run):
    results = run(SAMPLES)
    coarse, exact = results["systems"]
    assert (coarse["label"], exact["label"]) == ("8 bit", "16 bit")
    for metric in ("stoi", "si_sdr"):
        assert coarse["scores"][metric]["mean"] < exact["scores"][metric]["mean"]
    for metric in ("mel", "stft"):
        assert coarse["scores"][metric]["mean"] > exact["scores"][metric]["mean"]
    assert exact["scores"]["stoi"]["mean"] == pytest.approx(1.0, abs=1e-3)
    assert (coarse["codec"]["kbps"], exact["codec"]["kbps"]) == (128, 256)


def test_paired_differences_are_those_of_the_means_in_narrower_intervals(run, tmp_path, capsys):
    members = [("a.flac", encode(tone(1.0))), ("a.txt", b"my words"), ("b.flac", encode(tone(2.0)))]
    members += [("c.flac", encode(0.05 * tone(1.0))), ("c.txt", b"not my own words")]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    own = f"{METRICS}, recognizer: '{__name__}:transcribe'"
    _, *codecs = run(tmp_path / "in.tar", metrics=own)["systems"]
    script = module_of(REPOSITORY / "samples/paired_differences.py")
    script.main(f"{tmp_path}/out/results.json", "8 bit", "16 bit")
    header, _, row = ([cell.strip() for cell in line.split("|")] for line in lines(capsys))
    assert row[1] == "1 and 2"
    found = dict(zip(header, row, strict=True))
    for name in ("stoi", "si_sdr", "mel", "stft", "wer", "cer"):
        mean, low, _, high = found[METRIC_FORMATS[name].title].translate(NO_BRACKETS).split()
        before, after = (codec["scores"][name] for codec in codecs)
        assert float(mean) == pytest.approx(after["mean"] - before["mean"], abs=6e-4)
        assert float(low) <= float(mean) <= float(high)
    with pytest.raises(
        SystemExit, match="nothing have no number of codebooks in common; codecs: 8"
    ):
        script.main(f"{tmp_path}/out/results.json", "8 bit", "nothing")


NO_BRACKETS = str.maketrans("", "", "()")


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_results_describe_each_codec_and_the_scores_of_each_clip(run):
    results = run(SAMPLES, codecs="{pcm: {name: pcm, num_codebooks: [1, 2]}}")
    assert results["schema_version"] == 2
    assert set(results["skipped"]) == {"DNSMOS", "speaker similarity", "WER and CER"}
    assert [s["codec"]["num_codebooks"] for s in results["systems"]] == [1, 2]
    for system in results["systems"]:
        assert len(system["clips"]) == results["num_clips"] == 3
        values = [clip["scores"]["si_sdr"] for clip in system["clips"]]
        assert system["scores"]["si_sdr"]["mean"] == pytest.approx(np.mean(values))
        assert system["codec"]["entropy_kbps"] <= system["codec"]["kbps"]
        assert [book["size"] for book in system["codec"]["codebooks"]] == [256, 256]
        assert min(system["real_time_factor"].values()) > 0


def test_a_metric_leaves_out_the_clips_on_which_it_is_not_defined_and_names_them(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(PcmCodec, "info", replace(PcmCodec.info, min_frames=0, frame_offset=-99))
    clips = {"good": tone(1.0), "silent": np.zeros(16_000), "tiny": tone(0.02), "under": tone(1e-3)}
    data = [(f"{key}.flac", encode(audio_T)) for key, audio_T in clips.items()]
    (tmp_path / "clips.tar").write_bytes(tar_bytes(data))
    results = run(tmp_path / "clips.tar", "max_clips=4", codecs="{s: {name: pcm}}")
    [system] = results["systems"]
    silent = ["silent"]
    assert system["undefined"] == {"stoi": ["silent", "tiny"], "si_sdr": silent, "stft": silent}
    assert system["left_out"] == ["under"]
    assert system["scores"]["stft"]["count"] == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "STOI of silent, tiny" in page
    assert "under, under a frame" in page


def test_every_mean_has_its_interval_in_the_results_and_on_the_page(run, tmp_path):
    results = run(SAMPLES)
    page = (tmp_path / "out" / "report.html").read_text()
    for system in results["systems"]:
        for name, summary in system["scores"].items():
            values = [clip["scores"][name] for clip in system["clips"]]
            low, high = bootstrap_interval(values, [1.0] * len(values))
            assert summary["ci"] == [low, high]
            digits = METRIC_FORMATS[name].digits
            assert f"{low:.{digits}f} to {high:.{digits}f}</small>" in page


def test_opus_is_a_row_with_its_measured_bit_rate_and_players(run, tmp_path):
    results = run(SAMPLES, "baselines.opus=[6,12]")
    low, high, *codecs = results["systems"]
    assert [low["label"], high["label"]] == ["opus 6", "opus 12"]
    assert low["codec"] is high["codec"] is None
    for system, nominal in ((low, 6), (high, 12)):
        assert system["measured_kbps"] == pytest.approx(nominal, rel=0.25)
        assert len(system["clips"]) == results["num_clips"]
        assert min(system["real_time_factor"].values()) > 0
    assert [codec["measured_kbps"] for codec in codecs] == [None, None]
    assert low["scores"]["stoi"]["mean"] < high["scores"]["stoi"]["mean"]
    assert low["scores"]["mel"]["mean"] > high["scores"]["mel"]["mean"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<strong>opus 6</strong>") == page.count("<strong>opus 12</strong>") == 2
    assert f"<td>opus 6</td><td></td><td>{low['measured_kbps']:.2f}</td><td></td>" in page


def test_an_impossible_bit_rate_is_refused_before_any_work(run):
    with pytest.raises(InputError, match=r"baselines\.opus holds 0; libopus takes"):
        run("nowhere/", "baselines.opus=[0]")


class Page(HTMLParser):
    """Checks that every element is closed in its place, and collects the URLs that it loads."""

    EMPTY = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_no_other_file(run, tmp_path):
    run(SAMPLES)
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:") for source in page.sources)
    sounds = [s.partition(",")[2] for s in page.sources if s.startswith("data:audio/flac")]
    assert len(sounds) == 2 * 3  # two clips: original, 8 bit, 16 bit
    original, _, exact = (soundfile.read(io.BytesIO(base64.b64decode(s)))[0] for s in sounds[:3])
    assert len(original) == pytest.approx(len(exact), abs=1)
    assert np.abs(exact).max() > 0.05
    assert len(re.findall("data:image/png", text)) == 6


def test_text_of_the_test_set_cannot_become_markup(run, tmp_path):
    members = [("a.flac", encode(tone(1.0))), ("a.txt", b"<script>alert(1)</script>")]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    run(tmp_path / "in.tar")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def noisy_pairs(tmp_path):
    for seed in range(3):
        clean = tone(1.0, seed=seed)
        noise = 0.1 * np.random.default_rng(seed).standard_normal(len(clean))
        for name, audio in (("clean", clean), ("noisy", clean + noise)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{seed}.flac").write_bytes(encode(audio))


def test_noisy_clips_are_measured_against_their_clean_twins(run, tmp_path):
    noisy_pairs(tmp_path)
    results = run(tmp_path / "noisy", f"references=['{tmp_path}/clean']")
    given, _, exact = results["systems"]
    assert given["label"] == "input"
    assert 0 < given["scores"]["si_sdr"]["mean"] < 15
    assert exact["scores"]["si_sdr"]["mean"] == pytest.approx(
        given["scores"]["si_sdr"]["mean"], abs=0.1
    )


def test_the_clean_twin_may_be_a_member_of_the_same_sample(run, tmp_path):
    clean = tone(1.0)
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(len(clean))
    members = [("a.flac", encode(noisy)), ("a.enhanced.flac", encode(clean))]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    given = run(tmp_path / "in.tar", "reference_member=enhanced.flac")["systems"][0]
    assert 0 < given["scores"]["si_sdr"]["mean"] < 15


def test_clips_that_cannot_be_used_are_left_out_with_the_reason(run, tmp_path):
    noisy_pairs(tmp_path)
    (tmp_path / "clean" / "0.flac").unlink()
    (tmp_path / "clean" / "1.flac").write_bytes(encode(tone(2.0)))
    results = run(tmp_path / "noisy", f"references=['{tmp_path}/clean']")
    assert [clip["key"] for clip in results["systems"][0]["clips"]] == ["2"]
    assert results["rejects"]["0"] == "has no reference"
    assert "2.000 s" in results["rejects"]["1"]


def test_an_empty_test_set_is_refused_with_the_reasons(run, tmp_path):
    (tmp_path / "in.tar").write_bytes(tar_bytes([("a.flac", b"no audio")]))
    with pytest.raises(InputError, match=r"no clip.*a: UndecodableAudio"):
        run(tmp_path / "in.tar")


def test_more_codebooks_than_there_are_are_refused_before_any_work(run):
    with pytest.raises(InputError, match=r"codecs\.x\.num_codebooks holds 3; the codec has 1 to 2"):
        run("nowhere/", codecs="{x: {name: pcm, num_codebooks: [1, 3]}}")


def embed(audio):
    """A user's embedding: the level in a few bands."""
    return np.abs(np.fft.rfft(audio, 512))


def transcribe(audio):
    return "wrong words" if len(np.unique(audio)) < 200 else "my words"


def test_speaker_similarity_and_word_errors_come_from_the_users_own_functions(run, tmp_path):
    members = [("a.flac", encode(0.1 * tone(1.0))), ("a.txt", b"My words!")]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    own = f"{METRICS}, speaker: '{__name__}:embed', recognizer: '{__name__}:transcribe'"
    given, coarse, exact = run(tmp_path / "in.tar", metrics=own)["systems"]
    assert given["scores"]["speaker"]["mean"] == pytest.approx(1.0)
    assert coarse["scores"]["speaker"]["mean"] < exact["scores"]["speaker"]["mean"]
    assert [s["scores"]["wer"]["mean"] for s in (given, coarse, exact)] == [0.0, 0.5, 0.0]


def literally(audio):
    return "he came on the fifteenth of may mister jones"


@pytest.mark.parametrize(("normalizer", "errors"), [("simple", 2), ("whisper_english", 0)])
def test_texts_are_normalized_as_the_results_say(run, tmp_path, normalizer, errors):
    members = [("a.flac", encode(tone(1.0))), ("a.txt", b"He came on the 15th of May, Mr. Jones.")]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    own = f"{METRICS}, recognizer: '{__name__}:literally', normalizer: {normalizer}"
    results = run(tmp_path / "in.tar", metrics=own)
    assert results["normalizer"] == normalizer
    for system in results["systems"]:
        [clip] = system["clips"]
        assert clip["errors"]["wer"] == {"errors": errors, "total": 9}
        assert (clip["scores"]["cer"] > 0) == (errors > 0)


def test_wer_is_skipped_for_the_clips_without_words_alone(run, tmp_path):
    (tmp_path / "in").mkdir()
    for key, text in (("a", "He came."), ("b", "Uh, mm-hmm."), ("c", None)):
        (tmp_path / "in" / f"{key}.flac").write_bytes(encode(tone(1.0)))
        if text:
            (tmp_path / "in" / f"{key}.txt").write_text(text)
    own = f"{METRICS}, recognizer: '{__name__}:literally', normalizer: whisper_english"
    results = run(tmp_path / "in", metrics=own)
    assert "WER and CER of 2 of 3 clips" in results["skipped"]
    assert [system["scores"]["wer"]["count"] for system in results["systems"]] == [1, 1, 1]
    (tmp_path / "in" / "a.txt").unlink()
    assert run(tmp_path / "in", metrics=own)["skipped"]["WER and CER"] == "no clip has a text"


def test_two_clips_with_one_key_are_refused(run, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0001.flac").write_bytes(encode(tone(1.0)))
    sources = f"['{tmp_path}/one','{tmp_path}/two']"
    with pytest.raises(InputError, match="two samples of clips have the key '0001'"):
        run("", f"clips={sources}")
    with pytest.raises(InputError, match="two samples of references have the key '0001'"):
        run(tmp_path / "one", f"references={sources}")


def test_random_weights_are_named_at_the_start(tmp_path):
    mine = "codecs={mine: {name: pure-16k-small, checkpoint: untrained}}"
    assert "weights  of mine are random" in evaluate_one_clip(tmp_path, mine)


def evaluate_one_clip(folder, *overrides):
    """Run the demo's command on one clip; return what it prints."""
    config = REPOSITORY / "configs" / "evaluate" / "demo.yaml"
    to_folder = (f"clips=[{SAMPLES}]", f"output={folder}/out", "max_clips=1")
    done = invoke("evaluate", config, *to_folder, *overrides)
    assert done.exit_code == 0, done.output
    return done.stdout


def by_length(audio):
    return {1: "a b c d", 2: "e f g", 3: "nothing"}[round(len(audio) / 16_000)]


def test_error_rates_are_those_of_all_words_and_characters_together(run, tmp_path):
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    texts = ["a b c x", "e f", "one two three four five"]
    for seconds, text in enumerate(texts, start=1):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{seconds}.flac").write_bytes(encode(tone(seconds)))
        (tmp_path / "in" / f"{seconds}.txt").write_text(text)
    own = f"{METRICS}, recognizer: '{__name__}:by_length'"
    scores = run(tmp_path / "in", metrics=own)["systems"][0]["scores"]
    for name, metric in (("wer", word_error_rate), ("cer", char_error_rate)):
        total = float(metric(["a b c d", "e f g", "nothing"], texts))
        assert scores[name]["mean"] == pytest.approx(total)
        assert scores[name]["ci"][0] < total < scores[name]["ci"][1]
        assert scores[name]["count"] == 3


def test_models_of_hugging_face_measure_speakers_and_words(run, tmp_path):
    save_xvector(tmp_path / "speaker")
    save_ctc(tmp_path / "recognizer")
    models = f"speaker: '{tmp_path}/speaker', recognizer: '{tmp_path}/recognizer'"
    [given, _] = run(
        REPOSITORY / "samples" / "manifest.jsonl",
        "max_clips=2",
        codecs="{pcm: {name: pcm}}",
        metrics=f"{METRICS}, {models}",
    )["systems"]
    assert given["scores"]["speaker"]["mean"] == pytest.approx(1.0)
    assert given["scores"]["wer"]["count"] == 2
    assert given["clips"][0]["transcript"] is not None


def test_the_command_prints_a_table_and_writes_the_results(tmp_path):
    short = (
        "metrics.signal=[si_sdr,mel]",
        "metrics.processes=1",
        "codecs.pure.num_codebooks=[1,8]",
    )
    printed = evaluate_one_clip(tmp_path, *short)
    assert re.search(r"SI-SDR dB ↑ +mel ↓", printed)
    rows = re.findall(r"^ *pure +(\d)", printed, re.MULTILINE)
    assert rows == ["1", "8"]
    assert (tmp_path / "out" / "report.html").exists()
