"""`speechmill evaluate`: codecs side by side on one test set, in a table, JSON and a page."""

from collections.abc import Sequence

from speechmill.codecs import CodecInfo
from speechmill.jobs.config import to_yaml
from speechmill.jobs.display import Display
from speechmill.jobs.evaluation.measure import Evaluation
from speechmill.jobs.evaluation.page import evaluation_page
from speechmill.jobs.evaluation.results import Results, summary_table, without_score
from speechmill.jobs.schemas import EvaluateConfig, MetricConfig
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.opus import check_bit_rate
from speechmill.pipeline.quality.scoring import scoring_processes
from speechmill.pipeline.quality.testset import Utterance, read_test_set
from speechmill.pipeline.quality.transcript_errors import text_normalizer
from speechmill.pipeline.storage import Storage, join


def evaluate_codecs(config: EvaluateConfig, display: Display) -> Results:
    """Measure every codec on every clip; writes `results.json` and `report.html`.

    Raises `InputError` for a test set without a usable clip, and a `CodecError`.
    """
    for label, info in check_codecs(config).items():
        if not info.trained:
            display.line(f"weights  of {label} are random, so its scores have no meaning")
    storage = Storage(config.storage, config.storage_patience)
    utterances, rejects = read_test_set(config.test_set(), config.audio, config.limits, storage)
    seconds = sum(utterance.seconds for utterance in utterances)
    display.line(f"clips    {len(utterances)}, {seconds:,.1f} s; {len(rejects)} left out")
    skipped = _skipped(config.metrics, utterances)
    for name, reason in skipped.items():
        display.line(f"skipped  {name}: {reason}")
    with scoring_processes(config.metrics.processes) as processes:
        evaluation = Evaluation(config, utterances, processes, display)
        systems = evaluation.measure_inputs()
        systems += [evaluation.measure_opus(kbps) for kbps in config.baselines.opus]
        for label, codec in config.codecs.items():
            systems += evaluation.measure_codec(label, codec)
    results = Results(
        num_clips=len(utterances),
        seconds=seconds,
        rejects=rejects,
        skipped=skipped,
        normalizer=config.metrics.normalizer,
        systems=systems,
        config=to_yaml(config),
    )
    output = storage.absolute(config.output)
    page, numbers = join(output, "report.html"), join(output, "results.json")
    storage.put(numbers, results.to_json().encode())
    storage.put(page, evaluation_page(results, evaluation.played).encode())
    display.table(summary_table(results))
    for line in without_score(results):
        display.line(f"no score {line}")
    display.done(f"{page} and {numbers}", [page, numbers], storage)
    return results


def check_codecs(config: EvaluateConfig) -> dict[str, CodecInfo]:
    """Return the codecs by label; raise the error of a codec or baseline."""
    if not config.codecs:
        raise InputError("codecs is empty; name at least one, codecs.<label>.name=…")
    infos = {label: codec.info() for label, codec in config.codecs.items()}
    for label, codec in config.codecs.items():
        total = infos[label].num_codebooks
        for count in codec.num_codebooks or []:
            if not 1 <= count <= total:
                raise InputError(
                    f"codecs.{label}.num_codebooks holds {count}; the codec has 1 to {total}"
                )
    for kbps in config.baselines.opus:
        check_bit_rate(kbps)
    return infos


def _skipped(metrics: MetricConfig, utterances: Sequence[Utterance]) -> dict[str, str]:
    """Return the metrics that cannot be measured, with the reason."""
    reasons = {}
    if not metrics.dnsmos:
        reasons["DNSMOS"] = "metrics.dnsmos names no model (path or URL of sig_bak_ovr.onnx)"
    if not metrics.speaker:
        reasons["speaker similarity"] = "metrics.speaker names no model"
    if not metrics.recognizer:
        reasons["WER and CER"] = "metrics.recognizer names no model"
    else:
        normalize = text_normalizer(metrics.normalizer)
        without_text = sum(not normalize(utterance.text or "") for utterance in utterances)
        if without_text == len(utterances):
            reasons["WER and CER"] = "no clip has a text"
        elif without_text:
            part = f"WER and CER of {without_text} of {len(utterances)} clips"
            reasons[part] = "they have no text, or none is left by metrics.normalizer"
    return reasons
