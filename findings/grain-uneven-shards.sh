#!/usr/bin/env bash
# Guess: the shards of a grain.DataLoader with drop_remainder=False hold every record once between them,
#   and a window shuffle of a MapDataset is a permutation.
# Behaviour: where the shards do not divide the records, some are in none: of 10 records in 3 shards
#   record 3 is never seen, without a warning. Where the window does not divide the length, the window
#   shuffle repeats some records and leaves out others: of 10 with a window of 4, 1 comes twice and 9 not.
# Version: grain 0.2.18, numpy 2.5.5.
# Source: https://google-grain.readthedocs.io (IndexSampler, ShardOptions;
#   grain.experimental.WindowShuffleMapDataset).
# Output seen:
#   shards: [0, 1, 2] [4, 5, 6] [7, 8, 9]
#   window of 4: [0, 1, 1, 2, 3, 4, 5, 6, 7, 8]
#   window of 5: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
# What to do: give lengths that shards and windows divide, or count what was seen. charjax draws its
#   batches as a pure function of seed and step, and its epochs by a keyed bijection, for which nothing
#   has to divide.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet grain==0.2.18 numpy==2.5.5
"$folder/venv/bin/python" - <<'PROGRAM'
import sys

import grain

RECORDS, SHARDS = 10, 3


def shard(index):
    options = grain.sharding.ShardOptions(index, SHARDS, drop_remainder=False)
    sampler = grain.samplers.IndexSampler(
        RECORDS, shard_options=options, shuffle=False, num_epochs=1, seed=0
    )
    source = grain.sources.RangeDataSource(0, RECORDS, 1)
    return [int(x) for x in grain.DataLoader(data_source=source, sampler=sampler, worker_count=0)]


def shuffled(window):
    numbers = grain.MapDataset.range(RECORDS)
    mixed = grain.experimental.WindowShuffleMapDataset(numbers, window_size=window, seed=0)
    return sorted(mixed[i] for i in range(RECORDS))


shards, windows = [shard(i) for i in range(SHARDS)], {w: shuffled(w) for w in (4, 5)}
print("shards:", *shards)
for window, found in windows.items():
    print(f"window of {window}: {found}")
every = list(range(RECORDS))
sys.exit(sorted(sum(shards, [])) == every or windows[4] == every or windows[5] != every)
PROGRAM
