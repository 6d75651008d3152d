"""Work on files that several processes may start at once.

There are no locks, which a killed process would leave behind: every result
is a file that appears when it is complete, and each process goes through
what is missing in an order of its own, so that they help each other.
"""

import hashlib
import json
import os
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mmengine.dist import get_dist_info
from rich.progress import track

MAX_WORKERS = 4

Item = TypeVar('Item')


@contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Give a file its name when it is written.

    Yields:
        Where to write: a name in the same folder, with the same end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{uuid.uuid4().hex[:8]}_{path.name}')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def digest(facts: Any) -> str:
    """Return ten characters that change with any of the facts."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def file_facts(paths: Iterable[str | None]) -> list[tuple[str, int, int]]:
    """Return what changes with the content of files.

    Raises:
        ValueError: One does not exist; the message names it.
    """
    facts = []
    for path in filter(None, paths):
        try:
            stat = os.stat(path)
        except OSError as error:
            raise ValueError(f'{path}: no such file') from error
        facts.append((Path(path).name, stat.st_size, stat.st_mtime_ns))
    return facts


def do_missing(
    items: Sequence[Item],
    work: Callable[[Item], None],
    *,
    is_done: Callable[[Item], bool],
    description: str,
    num_workers: int | None = None,
) -> None:
    """Do the work of all items that nobody has done yet.

    Args:
        items: What to work on.
        work: Writes an item's result with ``complete_or_absent``.
        is_done: Whether the result is there.
        description: Of the progress bar, which the first rank shows.
        num_workers: Threads (what takes long, reading and resampling,
            leaves Python's lock); ``None``: one a processor of this rank,
            at most four.

    Raises:
        ValueError: The work of some items failed; the message has one line
            an item. All others are done.
    """
    missing = [item for item in items if not is_done(item)]
    if not missing:
        return
    random.Random(os.urandom(8)).shuffle(missing)

    def do(item: Item) -> None:
        if not is_done(item):
            work(item)

    errors = []
    with ThreadPoolExecutor(num_workers or _default_workers()) as pool:
        tasks = [pool.submit(do, item) for item in missing]
        try:
            for task in track(
                as_completed(tasks),
                description,
                total=len(tasks),
                disable=get_dist_info()[0] > 0,
            ):
                if isinstance(task.exception(), ValueError):
                    errors.append(str(task.exception()))
                else:
                    task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if errors:
        more = f'\n... {len(errors) - 10} more' if len(errors) > 10 else ''
        raise ValueError('\n'.join(sorted(errors)[:10]) + more)


def _default_workers() -> int:
    processors = os.cpu_count() or 1
    if hasattr(os, 'sched_getaffinity'):  # Linux: what this process may use.
        processors = len(os.sched_getaffinity(0))
    ranks = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return max(1, min(MAX_WORKERS, processors // ranks))
