#!/usr/bin/env bash
# Guess: SummaryWriter.add_scalar on a full disk raises, or loses the scalar; the program goes on.
# Behaviour: the writer's thread ends at the first OSError, with a traceback on stderr. add_scalar puts
#   events into a queue of 10 that nobody empties any more, so the program waits for ever some calls later.
# Version: tensorboardX 2.6.5.
# Source: tensorboardX/event_file_writer.py (_EventLoggerThread.run, EventFileWriter.add_event).
# Output seen:
#   thread alive: False; add_scalar returned 107 times and then waited: True
# What to do: write records by tensorboardX.record_writer.RecordWriter, which raises where it is called
#   (charjax.tracking.tensorboard), or watch the thread.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "tensorboardX==2.6.5"
"$folder/venv/bin/python" - "$folder/logs" <<'PROGRAM'
import os
import resource
import signal
import sys
import threading
import time

from tensorboardX import SummaryWriter

threading.excepthook = lambda args: None
# In place of a full disk: no file may grow beyond 4 KiB, and the error is EFBIG.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
writer = SummaryWriter(sys.argv[1], flush_secs=0)
count = 0


def log():
    global count
    for count in range(1, 100_001):
        writer.add_scalar("loss", 1.0, count)


program = threading.Thread(target=log, daemon=True)
program.start()
while (before := count) == 0 or (time.sleep(3), count)[1] != before:
    pass
waits, thread = program.is_alive(), writer.file_writer.event_writer._worker
print(
    f"thread alive: {thread.is_alive()}; "
    f"add_scalar returned {count - 1} times and then waited: {waits}",
    flush=True,
)
os._exit(0 if waits and not thread.is_alive() else 1)
PROGRAM
