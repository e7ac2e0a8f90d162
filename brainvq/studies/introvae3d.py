"""Study introvae3d: one latent vector for a whole FLAIR volume, by VAE and IntroVAE.

Volumes are registered to the MNI template, 160 x 192 x 160 mm around the brain, and averaged to
40 x 48 x 40 voxels of 4 mm.

Paper: Christopher Vogelsanger and Christian Federau, "Latent Space Analysis of VAE and Intro-VAE
applied to 3-dimensional MR Brain Volumes of Multiple Sclerosis, Leukoencephalopathy, and Healthy
Patients" (arXiv:2101.06772, 2021; 5404 volumes of 3096 patients; healthy, multiple sclerosis,
leukoencephalopathy of three grades; its four models are the variants ivae and vae).
Data: as many simulated patients, or FLAIR (or T1w) scans of BIDS.

    brainvq prepare introvae3d --data.source bids --data.root DIR  strip, register, crop
    brainvq train introvae3d --variants all                        simulated patients
    brainvq train introvae3d --variant ivae-256

Time on two cores: 18 minutes to simulate the scans, then for a variant about 12 minutes (VAE) to 20
(IntroVAE).
Result to expect on 844 test scans of 464 simulated patients, as SSIM, sharpness of drawn volumes
(squared Laplacian as a share of that of scans) and balanced accuracy of the five classes; all
figures are in docs/results.md:

    best        0.912   0.52   0.68
    ivae-256    0.863   0.22   0.66
    vae-512     0.867   0.18   0.64
    vae-8       0.806   0.16   0.43
"""

from dataclasses import replace

from brainvq.options import (
    Augment,
    Intro,
    IntroModel,
    Objective,
    VectorSampling,
    VectorStudy,
    VectorTrain,
    VolumeData,
)

BEST = VectorStudy(
    name="introvae3d",
    variant="best",
    data=VolumeData(
        suffix="FLAIR",
        subjects=3096,  # with the shares and visits below the paper's 5404 scans
        simulated_spacing=4.0,
        simulated_space="mni",
        groups=("healthy", "MS", "leuko1", "leuko2", "leuko3"),
        # Of the paper scans are known, 393, 41 and 205 of the grades, but patients of MS alone.
        shares=(1855.0, 616.0, 384.0, 40.0, 201.0),
        visits=(1.0, 4.724, 1.023, 1.025, 1.02),
        fractions=(0.8, 0.05, 0.15),
        registration="affine",
        shape=(160, 192, 160),
        spacing=1.0,
        block=4,
        clip_percentile=99.5,
    ),
    model=IntroModel(
        network=Intro(filters=(16, 32, 64), patch=2, norm="group", latent_size=256, linear=True),
        objective=Objective(form="vae", beta_rec=30.0),
    ),
    train=VectorTrain(
        epochs=8,
        batch_size=16,
        learning_rate=1e-3,
        augment=Augment(shift=0, flip=0.5, gain=0.0),
    ),
    sampling=VectorSampling(samples=256, temperature=1.0),
)


def _variant(variant, latent_size=256, **objective):
    """A model of the paper, without a linear path, and with as many passes as the others."""
    network = replace(BEST.model.network, linear=False, latent_size=latent_size)
    target = replace(BEST.model.objective, **objective)
    as_vae, rate = (5, 0.3) if target.is_adversarial else (0, 1.0)
    train = replace(BEST.train, epochs=10 - as_vae, vae_epochs=as_vae, decoder_rate=rate)
    return replace(BEST, variant=variant, model=IntroModel(network, target), train=train)


# The margin lies above the divergence of the VAE, about 400 nats. For "soft" the encoder is content
# at ln(beta_neg) / (2 beta_neg) nats a voxel, here 600.
_HINGE = {"form": "hinge", "adversarial_weight": 0.4, "margin": 600.0}

VARIANTS = {
    BEST: "VAE that starts from principal components, 256 numbers a volume",
    _variant("ivae-256", **_HINGE): "IntroVAE (hinge), 256 numbers a volume",
    _variant("ivae-32", latent_size=32, **_HINGE): "IntroVAE (hinge), 32 numbers",
    _variant("vae-512", latent_size=512): "variational autoencoder, 512 numbers",
    _variant("vae-8", latent_size=8): "variational autoencoder, 8 numbers",
    _variant(
        "vae-fitted", fitted_draws=128
    ): "VAE, 256 numbers; draws as sharp as scans; not in the paper",
    _variant(
        "soft-256", form="soft", beta_neg=480.0
    ): "Soft-IntroVAE, 256 numbers; not in the paper",
}

# Table 2 of the paper: precision and recall of IVAE-256, on its own test scans.
PUBLISHED = {
    "MS": (0.92, 0.89),
    "healthy": (0.75, 0.74),
    "leuko1": (0.43, 0.55),
    "leuko2": (0.25, 0.25),
    "leuko3": (0.48, 0.55),
}
# The paper puts the grades of leukoencephalopathy into one for its figure.
GRADES = ("leuko1", "leuko2", "leuko3")
