#!/usr/bin/env python3
"""Counts the instructions of the write path's hot parts and holds them against benches/instructions.json.

    benches/instructions.py            prints the counts; exits with 1 where one has grown by more than 2 %
    benches/instructions.py --update   writes them to the file, after a change that was meant

Each case of benches/instructions/main.rs runs once, under callgrind (Debian's package `valgrind`), which repeats a count to
a few parts in a thousand. A count is of one compiler, one set of libraries and one kind of processor: where all have
changed at once, that is no regression. Counts are no times: memory that is not at hand costs time and no instructions, and
callgrind knows no SHA instructions, so hashing is in none of the cases.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ROOT / "benches" / "instructions.json"
GROWTH_MAX = 0.02


def build():
    """Builds the bench and returns the path of its program."""
    command = ["cargo", "bench", "--locked", "--bench", "instructions", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    messages = (json.loads(line) for line in built.stdout.splitlines() if line.startswith("{"))
    programs = [message["executable"] for message in messages if message.get("executable")]
    return programs[-1]


def count(program, case):
    """The instructions of one case."""
    callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted*"]
    ran = subprocess.run([*callgrind, program, case], stderr=subprocess.PIPE, text=True)
    collected = re.search(r"Collected : (\d+)", ran.stderr)
    if ran.returncode != 0 or not collected or int(collected[1]) == 0:
        sys.exit(f"{case}: nothing was counted\n{ran.stderr}")
    return int(collected[1])


def main():
    if shutil.which("valgrind") is None:
        sys.exit("this needs valgrind")
    program = build()
    cases = subprocess.run([program], stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    counts = {case: count(program, case) for case in cases}
    grown = []
    for case, instructions in counts.items():
        change = instructions / known[case] - 1 if case in known else None
        print(f"{case:24} {instructions:>14,}  {'new' if change is None else f'{change:+.2%}'}")
        if change is None or change > GROWTH_MAX:
            grown.append(case)
    if "--update" in sys.argv[1:]:
        KNOWN.write_text(json.dumps(counts, indent=2) + "\n")
    elif grown:
        sys.exit(f"more instructions than in {KNOWN.name}: {', '.join(grown)}")


main()
