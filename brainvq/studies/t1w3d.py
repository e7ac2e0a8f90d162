"""Study t1w3d: whole T1w volumes as a code worth storing, at three rates.

144 x 176 x 144 voxels of 1 mm in the space of the template become 9 x 11 x 9 cells of 256 numbers,
of which most are 0 and cost next to nothing: 28 kbit a brain, 7 or 114 in the other variants. An
arithmetic coder writes them as a file of that size (`brainvq predict RUN encode`).

Paper: none; it is the transform coding of images (Goyal, "Theoretical foundations of transform
coding", 2001), with principal components of patches for the transform and a small U-Net that
refines what was decoded. Networks that learn codes of volumes, such as `som3d`, stay below patch
k-means on cohorts of fifty; this starts above it, and the refinement starts at zero.
New brains are mosaics of patches of training brains (brainvq/models/mosaic.py); nothing is trained
for them.
Data: any T1w scans; they are registered to the template.

    brainvq train t1w3d --data.source bids --data.root DIR
    brainvq train t1w3d --variants all --data.source bids --data.root DIR

Time: 4 minutes of one core on 50 people, and 5 seconds a scan for the registration; 2.1 GB.
Result to expect on unseen people of ds002748, foreground SSIM (patch k-means of as many bits; for
`small` and `large` before the refinement):

    small      7 kbit   0.615   0.406
    best      28 kbit   0.781   0.593
    large    114 kbit   0.907   0.763
"""

from dataclasses import replace

from brainvq.options import (
    Augment,
    Entropy,
    Loss,
    Model,
    Mosaic,
    Sampling,
    Transform,
    VolumeData,
    VolumeStudy,
    VolumeTrain,
)

BEST = VolumeStudy(
    name="t1w3d",
    variant="best",
    data=VolumeData(
        subjects=24,
        simulated_spacing=1.0,
        spacing=1.0,
        registration="affine",
        shape=(144, 176, 144),
        clip_percentile=99.5,  # bright vessels would take the range from the brain
    ),
    model=Model(
        network=Transform(),
        bottleneck=Entropy(volume_bits=28000),
        loss=Loss(mse_weight=5.0, ssim_weight=1.0),
    ),
    train=VolumeTrain(
        epochs=4,
        batch_size=1,  # the windows of a step are four
        learning_rate=1e-3,
        augment=Augment(shift=0, flip=0.0, gain=0.0),  # the mean volume is not symmetric
    ),
    prior=Mosaic(),
    sampling=Sampling(samples=8, temperature=1.0, top_p=None),
)


def _rate(variant, bits):
    bottleneck = replace(BEST.model.bottleneck, volume_bits=bits)
    return replace(BEST, variant=variant, model=replace(BEST.model, bottleneck=bottleneck))


VARIANTS = {
    BEST: "28 kbit a brain",
    # New people take a tenth more than training people at this rate.
    _rate("small", 6400): "7 kbit a brain",
    _rate("large", 114000): "114 kbit a brain",
}
