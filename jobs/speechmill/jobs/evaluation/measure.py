"""Runs codecs over the clips of a test set; returns scores, and audio for the report."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np
import soxr
from rich.markup import escape
from rich.progress import track

from speechmill.codecs import load_codec
from speechmill.jobs.display import Display
from speechmill.jobs.evaluation.page import PlayedClip, Player
from speechmill.jobs.evaluation.results import CodecFacts, ScoredClip, System
from speechmill.jobs.schemas import (
    EvaluateConfig,
    EvaluatedCodec,
    MetricConfig,
    default_device,
)
from speechmill.pipeline.audio.resample import decode_audio
from speechmill.pipeline.audio.samples import Samples, to_float
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.codebook_usage import CodeCounts
from speechmill.pipeline.quality.opus import OpusBaseline
from speechmill.pipeline.quality.reconstruct import Reconstruction, reconstruct
from speechmill.pipeline.quality.scoring import Scorer, scored
from speechmill.pipeline.quality.signal import match_length
from speechmill.pipeline.quality.speech import (
    SpeechMetrics,
    SpeechScores,
    speaker_model,
    speech_recognizer,
)
from speechmill.pipeline.quality.testset import Utterance, evenly_spaced
from speechmill.pipeline.quality.transcript_errors import text_normalizer
from speechmill.pipeline.text import shown

INPUT = "input"  # label of the clips themselves, before any codec


class Evaluation:
    """Runs one system after the other over the same clips; keeps the audio of a few clips."""

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
        self.device = config.device or default_device()
        metrics = config.metrics
        self.scorer = Scorer(metrics.signal, metrics.dnsmos, metrics.distillmos)
        self.speech_metrics = _speech_metrics(metrics, self.device)
        self.played = [
            _played(each, config) for each in evenly_spaced(utterances, config.report_clips)
        ]

    def measure_inputs(self) -> list[System]:
        """Score the clips themselves: the best that a codec can reach, or the noisy input."""
        trials = (Reconstruction(u, 0, u.input_T, RATE, 0.0, 0.0) for u in self._tracked(INPUT))
        systems = [System(INPUT, None, clips) for clips in self._score(INPUT, trials).values()]
        return [system for system in systems if system.scores]

    def measure_opus(self, kbps: float) -> System:
        """Return the baseline Opus at a nominal bit rate."""
        label = f"opus {kbps:g}"
        baseline = OpusBaseline(kbps, self.config.limits)
        clips = self._score(label, baseline.reconstruct(self._tracked(label)))[0]
        return System(label, None, clips, measured_kbps=baseline.measured_kbps)

    def measure_codec(self, label: str, config: EvaluatedCodec) -> list[System]:
        """Return one system for each number of codebooks."""
        codec = load_codec(**config.loader_options(self.device))
        prefixes = config.num_codebooks or [codec.info.num_codebooks]
        counts = CodeCounts(codec.info.codebook_sizes)
        audio, limits = self.config.audio, self.config.limits
        trials = reconstruct(self._tracked(label), codec, prefixes, audio, limits, counts)
        clips = self._score(label, trials)
        facts = [CodecFacts.of(codec.info, config.precision, n, counts) for n in prefixes]
        systems = []
        for fact in facts:
            own = clips.get(fact.num_codebooks, [])
            missing = {each.key for each in self.utterances} - {clip.key for clip in own}
            systems.append(System(label, fact, own, sorted(missing)))
        return systems

    def _score(self, label: str, trials: Iterable[Reconstruction]) -> dict[int, list[ScoredClip]]:
        """Return the scored clips by the number of codebooks."""
        found: dict[int, list[ScoredClip]] = {}
        for (trial, speech), scores in scored(self._pairs(trials), self.scorer, self.processes):
            clip = ScoredClip(
                key=trial.utterance.key,
                seconds=trial.utterance.seconds,
                scores=scores | speech.scores,
                text=trial.utterance.text,
                transcript=speech.transcript,
                errors=speech.errors,
                encode_seconds=trial.encode_seconds,
                decode_seconds=trial.decode_seconds,
            )
            found.setdefault(trial.num_codebooks, []).append(clip)
            self._keep_audio(label, trial, clip)
        return found

    def _pairs(
        self, trials: Iterable[Reconstruction]
    ) -> Iterator[tuple[tuple[Reconstruction, SpeechScores], Samples | None, Samples]]:
        """Yield each trial with its speech scores, its reference and its audio, at 16 kHz.

        The reference is None for a clip that would be compared with itself.
        """
        for trial in trials:
            utterance = trial.utterance
            at_rate_T = soxr.resample(trial.audio_T, trial.sample_rate, RATE, "VHQ")
            estimate_T = match_length(at_rate_T, len(utterance.reference_T))
            is_reference = trial.unchanged and not utterance.paired
            reference_T = None if is_reference else utterance.reference_T
            yield (trial, self.speech_metrics(utterance, estimate_T)), reference_T, estimate_T

    def _keep_audio(self, label: str, trial: Reconstruction, clip: ScoredClip) -> None:
        for played in self.played:
            if played.key == clip.key and not trial.unchanged:
                books = f", {trial.num_codebooks} codebooks" if trial.num_codebooks else ""
                title = f"{label}{books}"
                player = Player(title, trial.audio_T, trial.sample_rate, clip.scores)
                played.players.append(player)

    def _tracked(self, label: str) -> Iterable[Utterance]:
        """Return the clips, with a bar on a terminal."""
        console = self.display.console
        if not console.is_terminal:
            self.display.line(f"measure  {label}")
            return self.utterances
        return track(self.utterances, escape(shown(label)), console=console, transient=True)


def _speech_metrics(metrics: MetricConfig, device: str) -> SpeechMetrics:
    """Load the models that are named."""
    normalize = text_normalizer(metrics.normalizer)
    embed = speaker_model(metrics.speaker, device) if metrics.speaker else None
    transcribe = None
    if metrics.recognizer:
        options = metrics.recognizer_options
        transcribe = speech_recognizer(metrics.recognizer, device, options)
    return SpeechMetrics(embed, transcribe, normalize)


def _played(utterance: Utterance, config: EvaluateConfig) -> PlayedClip:
    rate = utterance.sample_rate
    decoded = decode_audio(utterance.data, rate, config.audio, config.limits)
    original_T = np.asarray(to_float(decoded.audio_T), np.float32)
    players = [Player(INPUT if utterance.paired else "original", original_T, rate, {})]
    if utterance.paired:
        players.insert(0, Player("reference", utterance.reference_T, RATE, {}))
    return PlayedClip(utterance.key, utterance.text, players)
