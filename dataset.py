"""Prepare the arrays of a study, or simulate scans: `brainvq prepare`, `brainvq simulate`.

python dataset.py [prepare] [STUDY] [--data.source ... --data.root DIR]
python dataset.py simulate --out DIR [--groups healthy MS]
"""

import sys

from brainvq.cli import run

if __name__ == "__main__":
    words = sys.argv[1:]
    command = words.pop(0) if words[:1] in (["prepare"], ["simulate"]) else "prepare"
    run(command, words, f"python dataset.py {command}")
