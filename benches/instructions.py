#!/usr/bin/env python3
"""Counts the instructions of the write path's hot parts and compares them with benches/instructions.json.

    benches/instructions.py            prints the counts; exits with 1 if one has grown by more than 2 %
    benches/instructions.py --update   writes them to the file, after an intended change

Each case of benches/instructions/main.rs runs once, under callgrind (Debian's package `valgrind`). Counts repeat to a few parts
in a thousand. They are valid for one compiler, one set of libraries and one kind of processor: if all counts change at once,
that is no regression. Counts are not times: a cache miss costs time and no instructions. callgrind does not know SHA
instructions, so no case includes hashing.

`PARTS` are parts without a case of their own, because no public function calls them alone. They are counted by the source file
of the instructions, including inlined ones, but without the work that they leave to the standard library.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ROOT / "benches" / "instructions.json"
GROWTH_MAX = 0.02

# Name: the case, and a part of the paths of its files, which are a module and its children.
PARTS = {
    "index text: words": ("index text", "src/index/words"),
    "index json: parser": ("index json", "src/index/json"),
}


def build():
    """Builds the bench and returns the path of its program."""
    command = ["cargo", "bench", "--locked", "--bench", "instructions", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    messages = (json.loads(line) for line in built.stdout.splitlines() if line.startswith("{"))
    benches = (message for message in messages if message.get("target", {}).get("name") == "instructions")
    programs = [message["executable"] for message in benches if message.get("executable")]
    return programs[-1]


def count(program, case):
    """Returns the instructions of one case, by source file."""
    with tempfile.NamedTemporaryFile("r") as profile:
        out = f"--callgrind-out-file={profile.name}"
        callgrind = ["valgrind", "--tool=callgrind", out, "--toggle-collect=*counted*"]
        ran = subprocess.run([*callgrind, program, case], stderr=subprocess.PIPE, text=True)
        counts = by_file(Path(profile.name).read_text())
    if ran.returncode != 0 or not counts:
        sys.exit(f"{case}: nothing was counted\n{ran.stderr}")
    return counts


def by_file(profile):
    """Sums a callgrind profile by file. In its format, fl, fi and fe name the file of the lines that follow; cfl, cfi and cfe name
    the file of the called function. A name is written in full the first time, and only as its number after that. The last
    number of a line is the line's own cost, but in the line after `calls=` it is the cost of the called function."""
    names, counts = {}, Counter()
    file, called = None, False
    for line in profile.splitlines():
        if named := re.match(r"(c?)f[lie]=\((\d+)\)(?: (.*))?", line):
            callee, number, name = named.groups()
            name = names.setdefault(number, name)
            file = file if callee else name
        elif line.startswith("calls="):
            called = True
        elif re.match(r"[\d+*-]", line):
            if not called:
                counts[file] += int(line.split()[-1])
            called = False
    return counts


def main():
    if shutil.which("valgrind") is None:
        sys.exit("this needs valgrind")
    program = build()
    cases = subprocess.run([program], stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    files = {case: count(program, case) for case in cases}
    counts = {case: sum(files[case].values()) for case in cases}
    for part, (case, path) in PARTS.items():
        counts[part] = sum(instructions for file, instructions in files[case].items() if path in file)
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
