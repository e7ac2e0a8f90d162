"""Use a trained study, as samples, reconstructions, codes or maps of codes: `brainvq predict`.

python predict.py [RUN] sample -n 64             new brains from the prior
python predict.py [RUN] reconstruct SCANS...     NIfTI on each scan's own grid, SSIM, picture
python predict.py --help                         all verbs
"""

import sys

from brainvq.cli import run

if __name__ == "__main__":
    run("predict", sys.argv[1:], "python predict.py")
