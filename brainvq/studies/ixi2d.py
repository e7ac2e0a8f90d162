"""Study ixi2d: 2D VQ-VAE on T1 slices of 256 x 256 as the scanner made them.

Transfer to other scanners and sizes, codes as features, anomalies.

Paper: Marjan Rashidi and Robert Bain, "Vector Quantized Variational Autoencoder" (slides, winter
2025; IXI, 76,800 slices, three halvings: 32 x 32 codes; tested on 320 x 320).
Data: simulated brains, or T1w (FLAIR for `flair`) scans of BIDS, IXI or OASIS; pictures.

    brainvq train ixi2d                                            simulated brains
    brainvq train ixi2d --data.source ixi --data.root DIR          on IXI
    brainvq train ixi2d --variant flair                            for FLAIR anomalies

Time on two cores: `best` on simulated brains about 20 minutes, estimated from the rate of its
steps.
Result to expect of `best`, on OpenNeuro ds002748 (nine subjects and six simulated ones to train, 70
epochs, ten to test), as SSIM and SSIM in the foreground; all figures are in docs/results.md:

    256 x 256, as trained               0.964   0.857
    288 x 288, the scanner's            0.971   0.857
    320 x 320 of 0.78 mm                0.979   0.894
"""

from dataclasses import replace

from brainvq.options import (
    EMA,
    Augment,
    Conv,
    Sampling,
    SliceData,
    SlicePrior,
    SliceStudy,
    SliceTrain,
)
from brainvq.studies import oasis2d

BEST = SliceStudy(
    name="ixi2d",
    variant="best",
    data=SliceData(
        simulated_spacing=1.0,  # pixels as fine as those of the scans it shall be used on
        spacing=None,
        size=256,
        slices=128,
        scale="max",
        transfer=(0, 320),
    ),
    train=SliceTrain(
        epochs=40,
        window=128,  # a quarter of the time of whole slices, to the same SSIM and beyond
        augment=Augment(shift=0, flip=0.5, gain=0.1),  # windows are shifts already
    ),
    prior=SlicePrior(epochs=6, copies=2),
    sampling=Sampling(samples=32),
)

PAPER = replace(
    BEST,
    variant="paper",
    model=replace(
        oasis2d.PAPER.model,
        # Three strided layers: 256 -> 32.
        network=Conv(filters=(32, 64, 128), bottleneck_filters=128, embedding_dim=64),
        bottleneck=EMA(num_codes=512, beta=0.25, decay=0.99, revival_threshold=0.1),
        loss=replace(oasis2d.PAPER.model.loss, data_variance=False),
    ),
    train=SliceTrain(
        epochs=20,
        learning_rate=1e-3,
        schedule="constant",
        augment=Augment(shift=0, flip=0.0, gain=0.0),
    ),
)

FLAIR = replace(
    BEST,
    variant="flair",
    # A few bright voxels set the maximum of a FLAIR scan, and lesions are what is looked for.
    data=replace(BEST.data, suffix="FLAIR", scale="percentile", transfer=(0,)),
)

VARIANTS = {
    BEST: "residual network, any size; 32x32 codes of 9 bits for 256x256",
    PAPER: "three strided layers as in the paper; 32x32 codes of 9 bits",
    FLAIR: "`best` on FLAIR, for anomalies",
}
