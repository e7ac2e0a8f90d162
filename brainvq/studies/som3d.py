"""Study som3d: 3D autoencoders of T1 volumes whose codes lie on a self-organising map.

144 x 176 x 144 voxels of 1 mm become 9 x 11 x 9 codes of 8 bits.

Paper: Rohan Kapre, "Using Discrete VAEs on T1-Weighted MRI Data to Embed Local Brain Regions"
(Stanford University; OASIS, 179 volumes; the variants are the rows of its table 1).
Data: simulated brains, or skull-stripped T1w scans of BIDS, OASIS or IXI.

    brainvq train som3d --variants all                             the whole table
    brainvq train som3d --variant ae                               others start from it
    brainvq train som3d --data.source oasis1 --data.root DIR       `best` on OASIS-1

Time on two cores: the whole table about 3 hours, a variant of 25 epochs 6 minutes, both estimated
from the rate of a step; measuring takes minutes more for each.
Result to expect on 8 simulated test subjects, as SSIM in the foreground from codes, the same from
latents, and codes used of 256; all figures are in docs/results.md:

    best-deep        0.566   0.610   256
    best             0.396   0.596   252
    ae                       0.618
    psomvae                  0.634    30
    somvae-toroid    0.386   0.570   200
    vqvae-kmeans     0.407           187
    vqvae            0.330            35
"""

from dataclasses import replace

from brainvq.options import (
    EMA,
    PSOM,
    SOM,
    Augment,
    Codebook,
    Gaussian,
    Identity,
    Latent,
    Loss,
    Model,
    Prior,
    Sampling,
    Strided,
    Torus,
    VolumeData,
    VolumeStudy,
    VolumeTrain,
)

AE = VolumeStudy(
    name="som3d",
    variant="ae",
    data=VolumeData(
        subjects=40,
        simulated_spacing=1.0,
        spacing=1.0,
        shape=(144, 176, 144),
        scale="zscore",
    ),
    model=Model(
        network=Strided(filters=(4, 8, 16, 32)),
        bottleneck=Identity(),
        loss=Loss(mse_weight=1.0, ssim_weight=0.0),
    ),
    train=VolumeTrain(
        epochs=100,
        batch_size=4,  # 32 in the paper, of 128 subjects: small cohorts would get one step
        learning_rate=5e-3,
        augment=Augment(shift=0, flip=0.0, gain=0.0),
    ),
    prior=None,
    sampling=Sampling(samples=8),
)

PRIOR = Prior(
    filters=32,
    blocks=4,
    epochs=0,
    batch_size=4,
    copies=1,
    dropout=0.5,  # two dozen volumes are soon known by heart
    weight_decay=0.1,
)


def _variant(variant, bottleneck, epochs=25, prior_epochs=0, *, network=None, start=None, **groups):
    """A row of the table: the autoencoder with another bottleneck, or another start."""
    model = replace(
        AE.model,
        network=network or AE.model.network,
        bottleneck=bottleneck,
        start=start,
        **groups,
    )
    prior = replace(PRIOR, epochs=prior_epochs) if model.decodes_codes else None
    return replace(
        AE,
        variant=variant,
        model=model,
        train=replace(AE.train, epochs=epochs),
        prior=prior,
    )


# The divergence as a mean over the 28,512 numbers of a latent, as common programs take it.
_KL_WEIGHT = 1 / 28512
_VQ = EMA(num_codes=256, beta=6.0, decay=0.99, initialization="random", revival_threshold=0.0)
_FROM_AE = {"start": "ae", "codebook": Codebook(codebook_start="kmeans")}
_SOM = SOM(alpha=6.0, beta=1.0)
_PSOM = PSOM(alpha=10.0, gamma=1.0, beta=1.0)
_TORUS = Torus(decay=0.95, beta=0.02, gamma=0.2)
_PRINCIPAL = {"start": "ae", "codebook": Codebook(codebook_start="principal")}
_MOSTLY_CONTINUOUS = {"latent": Latent(continuous_weight=0.8)}
_SAMPLED = Latent(sampled_latent=True, kl_weight=_KL_WEIGHT)

VARIANTS = {
    _variant(
        "best", _TORUS, 50, 60, **_PRINCIPAL, latent=Latent(continuous_weight=0.7)
    ): "codes are places on a torus that the encoder chooses; with a prior",
    _variant(
        "best-deep",
        replace(_TORUS, depth=4, initialization="kmeans", revival_threshold=0.03),
        50,
        **_PRINCIPAL,
        latent=Latent(continuous_weight=0.3),  # most of the weight on what the codes decode to
    ): "the same, with three more codes a cell for what the map leaves",
    AE: "plain autoencoder; most others start from it",
    _variant(
        "vae", Gaussian(), 100, latent=Latent(kl_weight=_KL_WEIGHT)
    ): "variational autoencoder",
    _variant("vqvae", _VQ, 50): "VQ-VAE from a random start (loss 1)",
    _variant(
        "vqvae-skips", _VQ, 50, network=replace(AE.model.network, skips=True)
    ): "the same with skip connections, which starve the codebook",
    _variant("vqvae-kmeans", _VQ, **_FROM_AE): "weights of ae, codebook by k-means (loss 1)",
    _variant(
        "vqvae-kmeans-codebook",
        _VQ,
        50,
        start="ae",
        codebook=Codebook(codebook_start="kmeans", start_weights=False),
    ): "codebook by k-means alone, weights from a random start",
    _variant(
        "vqvae-new", _VQ, **_FROM_AE, **_MOSTLY_CONTINUOUS
    ): "vqvae-kmeans with loss 2, weights .8 and .2",
    _variant(
        "vqvae-new-half", _VQ, **_FROM_AE, latent=Latent(continuous_weight=0.5)
    ): "the same with weights .5 and .5",
    _variant(
        "somvae", replace(_SOM, topology="rectangular"), **_FROM_AE, **_MOSTLY_CONTINUOUS
    ): "rectangular map, k-means start (loss 3)",
    _variant(
        "somvae-kohonen",
        replace(_SOM, topology="rectangular"),
        start="ae",
        codebook=Codebook(codebook_start="kohonen"),
        **_MOSTLY_CONTINUOUS,
    ): "rectangular map, started by Kohonen's algorithm",
    _variant(
        "somvae-toroid", _SOM, 25, 60, **_FROM_AE, **_MOSTLY_CONTINUOUS
    ): "toroidal map, k-means start; with a prior",
    _variant(
        "psomvae", _PSOM, start="ae"
    ): "probabilistic map (loss 5), gamma 1, beta 1; decodes vectors, not codes",
    _variant("psomvae-beta03", replace(_PSOM, beta=0.3), start="ae"): "the same with beta .3",
    _variant(
        "psomvae-gamma10", replace(_PSOM, gamma=10.0), **_FROM_AE
    ): "the same with gamma 10 and a k-means start",
    _variant(
        "somvae-continuous",
        _SOM,
        start="vae",
        codebook=Codebook(codebook_start="kmeans"),
        latent=replace(_SAMPLED, continuous_weight=0.8),
    ): "somvae-toroid over sampled vectors, from vae",
    _variant(
        "psomvae-continuous", _PSOM, start="vae", latent=_SAMPLED
    ): "psomvae over sampled vectors, from vae",
}

# Kapre's table 1, in its order: SSIM and PSNR (dB) of 23 validation subjects, and codes used "on a
# selected image in the training set".
PUBLISHED = {
    "vqvae-skips": (0.97, 33.7, 3),
    "vqvae": (0.61, 20.3, 3),
    "ae": (0.87, 25.5, None),
    "vae": (0.58, 20.1, None),
    "vqvae-kmeans": (0.63, 20.6, 46),
    "vqvae-kmeans-codebook": (0.52, 19.0, 2),
    "vqvae-new-half": (0.72, 22.4, 58),
    "vqvae-new": (0.73, 22.3, 56),
    "somvae": (0.82, 24.1, 113),
    "somvae-kohonen": (0.81, 24.0, 51),
    "somvae-toroid": (0.82, 24.2, 90),
    "somvae-continuous": (0.63, 20.6, 6),
    "psomvae": (0.91, 27.0, None),
    "psomvae-beta03": (0.91, 27.0, None),
    "psomvae-gamma10": (0.90, 26.5, None),
    "psomvae-continuous": (0.62, 20.6, None),
}
