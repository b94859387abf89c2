"""What a container states about itself, and whether its bytes account for all of that.

One rule for every format: each byte belongs to the audio, to a known chunk or to a tag, and the
frames hold as many samples as the header claims. Decoders silently stop at the first end they meet.
"""
