"""WavLM (arXiv 2110.13900) and HuBERT (2106.07447), up to the layer whose features are used.

The causal form (FocalCodec-Stream, arXiv 2509.16195) pads every convolution on the left and attends
to a window that ends with the frame's chunk, so that chunks can be computed one by one. The models
of transformers are not used because in their base models padding changes the first norm, and
because they compute attention weights that are not needed.
"""
