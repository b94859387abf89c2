"""Whisper's encoder (arXiv 2212.04356, section 2.2) without the padding to 30 s.

The models of transformers are not used because they compute 30 s for every clip. Here a clip's
frames attend to each other, but not to the silence after the clip.
"""
