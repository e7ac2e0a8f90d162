"""Every number that a user may tune: the studies, their variants, and what each option means.

STUDIES["oasis2d"]["paper"]               a preset; brainvq/studies has a file for each study
python hyperparameters.py                 all studies and variants
python hyperparameters.py som3d --help    all options of a study, with units and defaults
"""

import sys

from brainvq.options import *  # noqa: F403
from brainvq.studies import DEFAULT_STUDY, DEFAULT_VARIANT, STUDIES, SUMMARIES, parse  # noqa: F401

if __name__ == "__main__":
    parse(sys.argv[1:] or ["--help"], "python hyperparameters.py", __doc__)
