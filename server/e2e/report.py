"""How a long run tells its numbers: a table in the end, each line with its goal where it has one, and an exit code.

Also what is measured of a process from the outside: memory and open files, as the kernel counts them.
"""
import math
import os
import sys

MIB = 1 << 20


class Report:
    """Collects lines and faults; `finish` prints all of them and ends the program."""

    FAULTS_SHOWN = 12
    VALUE_WIDTH = 50

    def __init__(self, title):
        self.title = title
        self.lines = []
        self.faults = []

    def number(self, name, value, goal=None, met=None):
        """A measured value, as text; with a goal, `met` says whether it was met. A missed goal is no fault."""
        verdict = "" if goal is None else f"goal {goal}: {'ok' if met else 'MISSED'}"
        self.lines.append((name, value, verdict))
        print(f"  {name}: {value} {verdict}".rstrip(), flush=True)

    def check(self, name, checked, faults):
        """So many things were looked at, and these sentences say what was wrong with them."""
        faults = list(faults)
        self.faults += [f"{name}: {fault}" for fault in faults]
        verdict = "ok" if not faults else f"{len(faults)} WRONG"
        self.lines.append((name, f"{checked} checked", verdict))
        print(f"  {name}: {checked} checked, {verdict}", flush=True)
        for fault in faults[:self.FAULTS_SHOWN]:
            print(f"    {fault}", flush=True)

    def finish(self):
        widths = [max([len(str(line[i])) for line in self.lines] or [0]) for i in range(2)]
        widths[1] = min(widths[1], self.VALUE_WIDTH)  # a sentence may stand out
        print(f"\n{self.title}")
        for name, value, verdict in self.lines:
            print(f"  {name:<{widths[0]}}  {str(value):<{widths[1]}}  {verdict}".rstrip())
        for fault in self.faults:
            print(f"FAULT {fault}")
        print("failed" if self.faults else "passed", flush=True)
        sys.exit(1 if self.faults else 0)


def percentile(values, share):
    """The smallest value that `share` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def memory_mib(pid):
    """Resident memory now and at its most, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
