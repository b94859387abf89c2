"""Layers and quantizers of codecs, which compute each row of a batch as if it were alone.

Every `lengths_B` holds the rows' lengths; None means that all rows are full. A layer's output after
a row's end is undefined, but finite, unless its docstring says that it is zero.
"""
