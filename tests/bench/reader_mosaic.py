"""One pass of MosaicML streaming, in the environment that `reader.py` makes for it.

    python reader_mosaic.py write FOLDER PARQUET...
    python reader_mosaic.py read FOLDER

`write` makes MDS shards of the rows of Parquet files; `read` prints the seconds and the CPU seconds
of a shuffled pass.
"""

import json
import sys
import time

import numpy as np
import pyarrow.parquet as pq
from streaming import MDSWriter, StreamingDataset

COLUMNS = {"codes": "ndarray:uint16", "key": "str", "text": "str"}


def write(folder: str, files: list[str]) -> None:
    with MDSWriter(out=folder, columns=COLUMNS) as writer:
        for file in files:
            for row in pq.read_table(file, columns=list(COLUMNS)).to_pylist():
                writer.write(row | {"codes": np.array(row["codes"], dtype=np.uint16)})


def read(folder: str) -> None:
    dataset = StreamingDataset(local=folder, shuffle=True, batch_size=1)
    started, cpu = time.perf_counter(), time.process_time()
    for _ in dataset:
        pass
    print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], sys.argv[3:])
    else:
        read(sys.argv[2])
