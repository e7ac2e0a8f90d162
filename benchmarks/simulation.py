"""How long one simulated subject takes, per group and voxel size, on one core.

    python benchmarks/simulation.py

Prints the seconds of loading the template (once per process) and, per line, the median seconds of
processor time for a subject. Aim: a second at 2 mm. Measured on one server core: loading 1.8 s,
then 0.22 s (healthy) to 0.39 s (leukoencephalopathy) at 2 mm, 1.0 to 1.7 s at 1 mm.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # a fair figure per core, and what the array store's workers get
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from brainvq.data.simulation import GROUPS, simulate  # noqa: E402


def seconds(**params):
    """Returns the processor time of one subject in seconds."""
    start = time.process_time()
    simulate(params)
    return time.process_time() - start


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--subjects", type=int, default=5, help="subjects per line (count)")
    parser.add_argument(
        "--spacings", type=float, nargs="+", default=[4.0, 2.0, 1.0], help="voxel sizes in mm"
    )
    options = parser.parse_args()
    start = time.process_time()
    simulate({"spacing": 8.0})
    print(f"template and first subject at 8 mm: {time.process_time() - start:.2f} s")
    for spacing in options.spacings:
        for group in GROUPS:
            times = [
                seconds(spacing=spacing, group=group, number=number)
                for number in range(options.subjects)
            ]
            print(f"{spacing:g} mm  {group:8}  {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
