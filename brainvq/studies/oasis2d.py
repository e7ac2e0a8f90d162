"""Study oasis2d: 2D VQ-VAE and PixelCNN on axial T1 slices of 128 x 128, values in [0, 1].

Paper: Francesca Brzoskowski, "OASISVQ: Enhancing Brain Image Generation with VQVAE" (OASIS slices;
mean SSIM 0.704 at 256 bits a slice).
Data: simulated brains, or T1w scans of BIDS, OASIS-1, OASIS-2 or PNG slices.

    brainvq train                                                  simulated brains
    brainvq train oasis2d --data.source bids --data.root DIR       `best` on your scans
    brainvq train oasis2d --variant paper                          the paper's network and sizes

Time on two cores: `make demo`, from the shipped weights, 3.5 minutes, environment included.
Result to expect on 20 skull-stripped T1w of OpenNeuro ds002748 (14 to train, 2 to validate, 4 to
test), as bits a slice, SSIM and SSIM in the foreground; all figures are in docs/results.md:

    best          2304   0.928   0.817
    best-256bit    256   0.801   0.515
    paper          256   0.771   0.464
    tutorial       256   0.761   0.457
"""

from dataclasses import replace

from brainvq.options import (
    EMA,
    VQ,
    Augment,
    Conv,
    Loss,
    Model,
    Residual,
    Sampling,
    SlicePrior,
    SliceStudy,
    SliceTrain,
)

BEST = SliceStudy(
    name="oasis2d",
    variant="best",
    prior=SlicePrior(
        plan=True,
        levels=0,  # the plan knows the height
        warp=1.0,
        epochs=30,
        batch_size=64,
        dropout=0.2,
    ),
    # Chosen on people 51 to 56 of ds002748 by nearness, mirror image, dark places and a classifier.
    sampling=Sampling(temperature=0.95, top_p=0.95),
)

PAPER = SliceStudy(
    name="oasis2d",
    variant="paper",
    model=Model(
        network=Conv(
            filters=(32, 32, 64, 64),  # four strided layers: 128 -> 8
            bottleneck_filters=128,
            embedding_dim=16,
        ),
        bottleneck=EMA(
            num_codes=16,  # 8 x 8 codes of 4 bits: 256 bits a slice
            beta=0.25,
            decay=0.99,  # as published; shorter ones follow single batches when codes are only 16
            revival_threshold=0.1,
        ),
        loss=Loss(mse_weight=1.0, ssim_weight=0.0, data_variance=True),
    ),
    train=SliceTrain(
        epochs=30,
        batch_size=16,  # the tutorial's 128 gives a cohort of 14 subjects only 7 steps an epoch
        learning_rate=1e-3,
        schedule="constant",
        augment=Augment(shift=0, flip=0.0, gain=0.0),
    ),
    prior=SlicePrior(
        gated=False,
        filters=128,
        blocks=4,
        first_kernel_size=7,
        dropout=0.0,
        position_embedding=False,
        levels=0,
        epochs=30,
        learning_rate=1e-3,
        weight_decay=0.0,
        copies=1,
    ),
)

TUTORIAL = replace(
    PAPER,
    variant="tutorial",
    # What the paper's author ran: the codebook trained by gradient from a random start.
    model=replace(PAPER.model, bottleneck=VQ(num_codes=16, beta=0.25)),
)

BEST_256BIT = replace(
    BEST,
    variant="best-256bit",
    model=replace(
        BEST.model,
        # One level more: 8 x 8 codes of 4 bits.
        network=Residual(filters=(64, 128, 128), blocks=(1, 2, 2)),
        bottleneck=EMA(num_codes=16, decay=0.97, revival_threshold=0.1),
    ),
    train=replace(BEST.train, epochs=30),  # as many as the paper's network gets
)

VARIANTS = {
    BEST: "residual network, 16x16 codes of 9 bits (2304 bits a slice)",
    PAPER: "the paper's network, 8x8 codes of 4 bits (256 bits), codebook by EMA",
    TUTORIAL: "what its author ran: straight-through, random codebook (256 bits)",
    BEST_256BIT: "our network at the paper's size (256 bits a slice)",
}
