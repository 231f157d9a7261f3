"""What the splitter prints: the plan, progress (bars on a terminal, lines elsewhere), results."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from model_splitter.plan import Plan

LINES_PER_TASK = 4  # progress lines where the output is no terminal


class Reporter:
    def __init__(self, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def plan(self, plan: Plan, file_bytes: list[int]) -> None:
        """file_bytes: one per partition, then the head's."""
        table = Table(title="Plan")
        for title, justify in (("process", "left"), ("files", "left"), ("layers", "right"),
                               ("MB", "right"), ("share of work", "right")):
            table.add_column(title, justify=justify)
        total = sum(plan.costs)
        for index, (first, end) in enumerate(plan.ranges):
            hosts_head = not plan.sampler_is_own and index == len(plan.ranges) - 1
            size = file_bytes[index] + (file_bytes[-1] if hosts_head else 0)
            table.add_row(f"stage {index}" + (" + sampler" if hosts_head else ""),
                          f"partition_{index}" + (", head" if hosts_head else ""),
                          f"{first} - {end - 1}", f"{size / 1e6:.1f}",
                          f"{100 * plan.costs[index] / total:.1f} %")
        if plan.sampler_is_own:
            table.add_row("sampler", "head", "", f"{file_bytes[-1] / 1e6:.1f}",
                          f"{100 * plan.costs[-1] / total:.1f} %")
        self.console.print(table)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yields advance(count); total counts whatever is advanced by."""
        if not self.console.is_terminal:
            yield self._line_progress(title, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(),
                   TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda count: progress.advance(task, count)
            progress.update(task, completed=total)

    def _line_progress(self, title: str, total: int) -> Callable[[int], None]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            before = done * LINES_PER_TASK // max(1, total)
            done += count
            if done * LINES_PER_TASK // max(1, total) > before:
                self.line(f"{title}: {min(100, 100 * done // max(1, total))} %")
        return advance
