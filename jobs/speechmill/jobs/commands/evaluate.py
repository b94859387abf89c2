"""`speechmill evaluate`: codecs side by side on one test set, in a table, JSON and a page."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
import soxr
from rich.progress import track

from speechmill.codecs import codec_info, load_codec
from speechmill.jobs.config import to_yaml
from speechmill.jobs.display import Display
from speechmill.jobs.evaluation.results import (
    CodecFacts,
    Results,
    ScoredClip,
    System,
    summary_table,
)
from speechmill.jobs.report.evaluation_page import PlayedClip, Player, evaluation_page
from speechmill.jobs.schemas import EvaluateConfig, EvaluatedCodec
from speechmill.pipeline.audio.decoders import Samples, to_float
from speechmill.pipeline.audio.resample import decode_audio
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.codebook_usage import CodeCounts
from speechmill.pipeline.quality.reconstruct import Reconstruction, reconstruct
from speechmill.pipeline.quality.scoring import Scorer, scored, scoring_processes
from speechmill.pipeline.quality.signal import match_length
from speechmill.pipeline.quality.speech import SpeechMetrics, SpeechScores
from speechmill.pipeline.quality.testset import Utterance, evenly_spaced, read_test_set
from speechmill.pipeline.storage import Storage, join

INPUT = "input"  # label of the clips themselves, as they go into the codecs

Tag = tuple[Reconstruction, SpeechScores]


def evaluate(config: EvaluateConfig, display: Display) -> Results:
    """Measure every codec on every clip; writes `results.json` and `report.html`.

    Raises `InputError` for a test set of no clip that can be used, and a `CodecError`.
    """
    _check_codecs(config)
    storage = Storage(config.storage)
    utterances, rejects = read_test_set(config.test_set(), config.audio, config.limits, storage)
    seconds = sum(utterance.seconds for utterance in utterances)
    display.line(f"clips    {len(utterances)}, {seconds:,.1f} s; {len(rejects)} left out")
    skipped = _skipped(config, utterances)
    for name, reason in skipped.items():
        display.line(f"skipped  {name}: {reason}")
    with scoring_processes(config.metrics.processes) as processes:
        bench = _Bench(config, utterances, processes, display)
        systems = bench.inputs()
        for label, codec in config.codecs.items():
            systems += bench.codec(label, codec)
    results = Results(len(utterances), seconds, rejects, skipped, systems, to_yaml(config))
    output = storage.absolute(config.output)
    page, numbers = join(output, "report.html"), join(output, "results.json")
    storage.put(numbers, results.to_json().encode())
    storage.put(page, evaluation_page(results, bench.listening).encode())
    display.table(summary_table(results))
    display.done(f"{page} and {numbers}", [page, numbers], storage)
    return results


class _Bench:
    """Runs system after system over the same clips and keeps what the report plays."""

    def __init__(
        self,
        config: EvaluateConfig,
        utterances: Sequence[Utterance],
        processes: Executor | None,
        display: Display,
    ):
        self.config = config
        self.utterances = utterances
        self.processes = processes
        self.display = display
        self.device = config.device or _default_device()
        self.scorer = Scorer(config.metrics.signal, config.metrics.dnsmos)
        self.speech_metrics = SpeechMetrics(
            config.metrics.speaker, config.metrics.recognizer, self.device
        )
        self.listening = [
            _listening(u, config) for u in evenly_spaced(utterances, config.report_clips)
        ]

    def inputs(self) -> list[System]:
        """The clips themselves: what no codec can be better than, or what it gets of noise."""
        trials = (Reconstruction(u, 0, u.input_T, RATE, 0.0, 0.0) for u in self._tracked(INPUT))
        systems = [System(INPUT, None, clips) for clips in self._run(INPUT, trials).values()]
        return [system for system in systems if system.scores]

    def codec(self, label: str, config: EvaluatedCodec) -> list[System]:
        """One system for each prefix of the codebooks."""
        codec = load_codec(**config.loader_options(self.device))
        prefixes = config.num_codebooks or [codec.info.num_codebooks]
        counts = CodeCounts(codec.info.codebook_sizes)
        audio, limits = self.config.audio, self.config.limits
        trials = reconstruct(self._tracked(label), codec, prefixes, audio, limits, counts)
        clips = self._run(label, trials)
        facts = [CodecFacts.of(codec.info, config.precision, n, counts) for n in prefixes]
        return [System(label, fact, clips.get(fact.num_codebooks, [])) for fact in facts]

    def _run(self, label: str, trials: Iterable[Reconstruction]) -> dict[int, list[ScoredClip]]:
        """Scored clips, by the number of codebooks."""
        found: dict[int, list[ScoredClip]] = {}
        for (trial, speech), scores in scored(self._pairs(trials), self.scorer, self.processes):
            clip = ScoredClip(
                key=trial.utterance.key,
                seconds=trial.utterance.seconds,
                scores=scores | speech.scores,
                text=trial.utterance.text,
                transcript=speech.transcript,
                encode_seconds=trial.encode_seconds,
                decode_seconds=trial.decode_seconds,
            )
            found.setdefault(trial.num_codebooks, []).append(clip)
            self._keep(label, trial, clip)
        return found

    def _pairs(
        self, trials: Iterable[Reconstruction]
    ) -> Iterator[tuple[Tag, Samples | None, Samples]]:
        for trial in trials:
            utterance = trial.utterance
            at_rate_T = soxr.resample(trial.audio_T, trial.sample_rate, RATE, "VHQ")
            estimate_T = match_length(at_rate_T, len(utterance.reference_T))
            trivial = estimate_T is utterance.reference_T or not trial.num_codebooks
            reference_T = None if trivial and not utterance.paired else utterance.reference_T
            yield (trial, self.speech_metrics(utterance, estimate_T)), reference_T, estimate_T

    def _keep(self, label: str, trial: Reconstruction, clip: ScoredClip) -> None:
        for listening in self.listening:
            if listening.key == clip.key and trial.num_codebooks:
                title = f"{label}, {trial.num_codebooks} codebooks"
                player = Player(title, trial.audio_T, trial.sample_rate, clip.scores)
                listening.players.append(player)

    def _tracked(self, label: str) -> Iterable[Utterance]:
        """The clips, with a bar on a terminal."""
        console = self.display.console
        if not console.is_terminal:
            self.display.line(f"measure  {label}")
            return self.utterances
        return track(self.utterances, label, console=console, transient=True)


def _check_codecs(config: EvaluateConfig) -> None:
    """Find what is wrong with a codec before any clip is read."""
    if not config.codecs:
        raise InputError("codecs is empty; name at least one, codecs.<label>.name=…")
    for label, codec in config.codecs.items():
        options = codec.loader_options("cpu")
        del options["device"], options["precision"]
        total = codec_info(options.pop("name"), **options).num_codebooks
        for count in codec.num_codebooks or []:
            if not 1 <= count <= total:
                raise InputError(
                    f"codecs.{label}.num_codebooks holds {count}; the codec has 1 to {total}"
                )


def _skipped(config: EvaluateConfig, utterances: Sequence[Utterance]) -> dict[str, str]:
    """What is not measured, and what is missing for it."""
    metrics = config.metrics
    reasons = {}
    if not metrics.dnsmos:
        reasons["DNSMOS"] = "metrics.dnsmos names no model (path or URL of sig_bak_ovr.onnx)"
    if not metrics.speaker:
        reasons["speaker similarity"] = "metrics.speaker names no model"
    if not metrics.recognizer:
        reasons["word error rate"] = "metrics.recognizer names no model"
    elif silent := sum(not utterance.text for utterance in utterances):
        reasons["word error rate"] = f"{silent} clips have no text"
    return reasons


def _listening(utterance: Utterance, config: EvaluateConfig) -> PlayedClip:
    rate = utterance.sample_rate
    decoded = decode_audio(utterance.data, rate, config.audio, config.limits)
    original_T = np.asarray(to_float(decoded.audio_T), np.float32)
    players = [Player(INPUT if utterance.paired else "original", original_T, rate, {})]
    if utterance.paired:
        players.insert(0, Player("reference", utterance.reference_T, RATE, {}))
    return PlayedClip(utterance.key, utterance.text, players)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
