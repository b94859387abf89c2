"""Read a token dataset back with DuckDB: totals by language, and the first rows."""

import sys

import duckdb

parts = f"{sys.argv[1]}/tokens/*.parquet"
rows = duckdb.sql(f"""
    SELECT key, metadata->>'language' AS language, round(duration, 2) AS seconds, sample_rate,
           num_frames AS frames, codes[1:8] AS first_frame, text
    FROM '{parts}' ORDER BY key
""")
duckdb.sql(
    "SELECT language, count(*) AS clips, sum(frames) AS frames FROM rows GROUP BY ALL"
).show()
rows.limit(5).show(max_width=110)
