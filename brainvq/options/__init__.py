"""Every number that a user may tune: what each option means, its default, range and condition.

A study is a `Study`; each network and each bottleneck is a class with its own options and `build`.
An option of another network, bottleneck or kind of sample does not exist.
"""

from brainvq.options.base import check, check_conditions, effective, options_of
from brainvq.options.bottlenecks import (
    BOTTLENECKS,
    EMA,
    PSOM,
    SOM,
    VQ,
    Bottleneck,
    Gaussian,
    Gumbel,
    Identity,
    Torus,
)
from brainvq.options.data import DOWNLOADS, BundleData, Data, SliceData, VolumeData, comparable
from brainvq.options.model import Codebook, IntroModel, Latent, Loss, Model, Objective
from brainvq.options.networks import (
    NETWORKS,
    Bundle,
    Conv,
    Intro,
    Network,
    Residual,
    Streamline,
    Strided,
)
from brainvq.options.parse import parse_fields, take_option
from brainvq.options.study import (
    BundleStudy,
    SliceStudy,
    Study,
    VectorStudy,
    VolumeStudy,
    from_dict,
    to_dict,
)
from brainvq.options.training import (
    Augment,
    BundleTrain,
    Prior,
    Sampling,
    SlicePrior,
    SliceTrain,
    Train,
    VectorSampling,
    VectorTrain,
    VolumeTrain,
)

__all__ = [
    "Augment",
    "BOTTLENECKS",
    "Bottleneck",
    "Bundle",
    "BundleData",
    "BundleStudy",
    "BundleTrain",
    "Codebook",
    "Conv",
    "DOWNLOADS",
    "Data",
    "EMA",
    "Gaussian",
    "Gumbel",
    "Identity",
    "Intro",
    "IntroModel",
    "Latent",
    "Loss",
    "Model",
    "NETWORKS",
    "Network",
    "Objective",
    "PSOM",
    "Prior",
    "Residual",
    "SOM",
    "Sampling",
    "SliceData",
    "SlicePrior",
    "SliceStudy",
    "SliceTrain",
    "Streamline",
    "Strided",
    "Study",
    "Torus",
    "Train",
    "VQ",
    "VectorSampling",
    "VectorStudy",
    "VectorTrain",
    "VolumeData",
    "VolumeStudy",
    "VolumeTrain",
    "check",
    "check_conditions",
    "comparable",
    "effective",
    "from_dict",
    "options_of",
    "parse_fields",
    "take_option",
    "to_dict",
]
