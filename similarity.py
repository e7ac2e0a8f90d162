"""Measure trained runs on the subjects they never saw: `brainvq compare`.

python similarity.py [RUN ...]     SSIM, PSNR, code usage, bits; without a RUN, the newest one
"""

import sys

from brainvq.cli import run

if __name__ == "__main__":
    run("compare", sys.argv[1:], "python similarity.py")
