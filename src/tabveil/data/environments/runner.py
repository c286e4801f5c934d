"""Runs one worker in an environment of its own: `python -I runner.py WORKER FOLDER`, started by `tabveil.environments`.

The worker's file has a function `answer(job, folder)`; what it gives goes to FOLDER/answer.json, and so do type and
place of an error, never its words. Needs the standard library alone, of any Python that an environment may have.

Privacy: FOLDER holds real rows. Where the process that made it is gone, nobody else removes it, so this one does.
"""

import json
import os
import runpy
import shutil
import sys
import threading
import time
from pathlib import Path


def main(worker: str, folder: Path) -> None:
    """Answer the job that lies in `folder`."""
    threading.Thread(target=_watch, args=(os.getppid(), folder), daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        said = {"answer": runpy.run_path(worker)["answer"](job, folder)}
    except Exception as error:
        said = {"error": type(error).__name__, "place": _place(error)}
    beside = folder / "answer.json.tmp"
    beside.write_text(json.dumps(said, allow_nan=False), encoding="utf-8")
    os.replace(beside, folder / "answer.json")


def _place(error: BaseException) -> str:
    """The module whose code raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "nowhere" if trace is None else str(trace.tb_frame.f_globals.get("__name__", "nowhere"))


def _watch(parent: int, folder: Path) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
