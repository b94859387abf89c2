"""The numbers that all of Whisper's models share."""

SAMPLE_RATE = 16_000
MEL_HOP = 160
STRIDE = 2  # of the second convolution: 100 Hz to 50 Hz
WINDOW_SAMPLES = 30 * SAMPLE_RATE  # the longest input
