"""Study streamlines: bundles of white matter in groups of 64 streamlines of 64 points.

Paper: Lizarraga et al. 2023, "Differentiable VQ-VAE's for Robust White Matter Streamline Encodings"
(TractoInferno; its table 1 is the variants behind `best`).
Data: simulated bundles, TractoInferno, any .trk, .tck or .trx files, or the paper's .npy groups.

    brainvq train streamlines --variants all                                 simulated bundles
    brainvq train streamlines --data.source tractoinferno --data.root DIR    `best` on those
    brainvq train streamlines --data.source tracts --data.root DIR           on any .trk files

Time on two cores: all variants on simulated bundles about an hour and a half.
Result to expect on 20 groups of one real person of TractoInferno that training did not see, as
BUAN; all figures are in docs/results.md:

    best       36 bits a streamline    0.996 (0.995 over three seeds)
    vq-diff    no discrete code        1.000
    ae         no code                 0.999 after 300 epochs, as those below
    vq-ema     36 bits                 0.580
    vae        no code                 0.527
    vq-vae     36 bits                 0.478
"""

from dataclasses import replace

from brainvq.options import (
    EMA,
    VQ,
    Bundle,
    BundleData,
    BundleStudy,
    BundleTrain,
    Codebook,
    Gaussian,
    Gumbel,
    Identity,
    Latent,
    Loss,
    Model,
    Prior,
    Sampling,
    Streamline,
)

BEST = BundleStudy(
    name="streamlines",
    variant="best",
    data=BundleData(subjects=16, streamlines=64, per_bundle=12),
    model=Model(
        network=Streamline(filters=(192,), blocks=(3, 4)),
        bottleneck=EMA(
            num_codes=512,
            depth=4,  # 36 bits a streamline
            beam=16,
            beta=0.005,
            decay=0.99,
            initialization="random",
            revival_threshold=0.0,
        ),
        latent=Latent(latent_noise=0.3),
        codebook=Codebook(
            codebook_start="kmeans",
            codebook_passes=16,
            codebook_tail=1.0,
            codebook_fixed=True,  # training moves it to what augmented streamlines are like
        ),
        loss=Loss(mse_weight=33.0, mse_knee=3e-5, ssim_weight=0.0),
    ),
    train=BundleTrain(
        epochs=240,
        max_steps=4000,
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=1e-3,
        deform=0.8,
        permute=True,
    ),
    prior=Prior(filters=48, blocks=6, epochs=20, max_steps=1000, batch_size=16, copies=4),
    sampling=Sampling(samples=24, temperature=0.9, top_p=0.95),
)


def _variant(variant, bottleneck, kl_weight=1e-4):
    """A model of the paper's table: its network with another bottleneck."""
    model = Model(
        network=Bundle(
            filters=(64, 128),
            blocks=(2,),
            bottleneck_filters=32,
            embedding_dim=64,
            pass_through=True,  # from a random start the figures take ten times the steps
        ),
        bottleneck=bottleneck,
        latent=Latent(kl_weight=kl_weight),
        loss=Loss(mse_weight=1.0, ssim_weight=0.0),
    )
    return replace(
        BEST,
        variant=variant,
        model=model,
        train=BundleTrain(
            epochs=500,
            max_steps=6000,
            batch_size=8,  # 256 in the paper, for 15,000 steps on 255 people
            learning_rate=1e-3,
            # The paper has neither; without them a hundred groups are learned by heart.
            deform=0.6,
            permute=True,
        ),
        prior=replace(BEST.prior, epochs=0) if model.decodes_codes else None,
    )


VARIANTS = {
    BEST: "four codes of 9 bits for each streamline; with a prior",
    _variant(
        "vq-diff", Gumbel(num_codes=512)
    ): "the paper's: sums of codes weighted by a Gumbel softmax, no code",
    _variant("ae", Identity()): "plain autoencoder on the paper's network",
    # The evidence bound of a Gaussian with a deviation of 0.016, 2 σ² / 12288. One of 1 leaves the
    # latents nothing to say, and one of 0.05, the threshold of BUAN, next to nothing.
    _variant("vae", Gaussian(), kl_weight=4e-8): "variational autoencoder on it",
    _variant(
        "vq-vae", VQ(num_codes=512, beta=0.25)
    ): "VQ-VAE on it, straight-through; 36 bits a streamline",
    _variant(
        "vq-ema",
        EMA(num_codes=512, beta=0.25, decay=0.99, initialization="random", revival_threshold=0.0),
    ): "VQ-VAE on it, codebook by moving averages; 36 bits a streamline",
}

# Table 1 of Lizarraga et al.: mean BUAN of each bundle over their validation set, in the order of
# `brainvq.names.BUNDLES`.
PUBLISHED = {
    "vq-diff": (0.9986, 0.9971, 0.9976, 0.9910, 0.9910, 0.9855, 0.9888, 0.9989, 0.9990, 0.9988)
    + (0.9988, 0.9974),
    "ae": (0.9999, 0.9999, 0.9999, 0.9999, 0.9999, 0.9975, 0.9988, 0.9999, 0.9999, 0.9999)
    + (0.9999, 0.9999),
    "vae": (0.3593, 0.2689, 0.2832, 0.2399, 0.2726, 0.2340, 0.2808, 0.4815, 0.4649, 0.4764)
    + (0.4989, 0.3750),
    "vq-vae": (0.4989, 0.4983, 0.5063, 0.3228, 0.3409, 0.3143, 0.3437, 0.6869, 0.6867, 0.7045)
    + (0.7154, 0.3380),
    "vq-ema": (0.3740, 0.4335, 0.4357, 0.2408, 0.2836, 0.2296, 0.2793, 0.6508, 0.6562, 0.6778)
    + (0.6849, 0.2458),
}
