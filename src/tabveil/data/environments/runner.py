"""Runs a worker in an environment of its own: `python -I runner.py WORKER FOLDER PARENT`, by `tabveil.environments`.

The worker's file has a function `answer(job, folder)`; what it gives goes to FOLDER/answer.json, and so do type and
place of an error, never its words. Needs the standard library alone, of any Python that an environment may have.

It is there before the tables are, and waits for job.json, which is written last.

Privacy: FOLDER holds real rows. Where PARENT, which made it, is gone, nobody else removes it, so this process does.
"""

import json
import os
import runpy
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path


def main(worker: str, folder: Path, parent: int) -> None:
    """Answer the job that `parent` puts into `folder`."""
    threading.Thread(target=_watch, args=(parent, folder), daemon=True).start()
    try:
        answer = runpy.run_path(worker)["answer"]
        said = _answered(answer, _job(folder), folder)
    except Exception as error:
        said = {"error": type(error).__name__, "place": _place(error), "unusable": True}
    beside = folder / "answer.json.tmp"
    beside.write_text(json.dumps(said, allow_nan=False), encoding="utf-8")
    os.replace(beside, folder / "answer.json")


def _job(folder: Path) -> object:
    while not (folder / "job.json").exists():
        time.sleep(0.02)
    return json.loads((folder / "job.json").read_text(encoding="utf-8"))


def _answered(answer: Callable[[object, Path], object], job: object, folder: Path) -> dict[str, object]:
    try:
        return {"answer": answer(job, folder)}
    except Exception as error:
        return {"error": type(error).__name__, "place": _place(error)}


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
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
