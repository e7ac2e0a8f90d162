"""Train a study from files on disk to new brains, tables, figures and a report: `brainvq train`.

python train.py                                              the demo, on simulated brains
python train.py oasis2d --data.source bids --data.root DIR   on your own scans
python train.py --resume RUN                                 go on with a run that was stopped
python train.py --help                                       studies, variants and more
"""

import sys

from brainvq.cli import run

if __name__ == "__main__":
    run("train", sys.argv[1:], "python train.py")
