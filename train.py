"""Train a study from files on disk to new brains, tables, figures and a report.

    python train.py                                              the demo, on simulated brains
    python train.py oasis2d --data.source bids --data.root DIR   on your own scans
    python train.py oasis2d --variant paper                      the network of the source
    python train.py --resume RUN                                 go on with a run that was stopped

The run's folder, runs/STUDY-VARIANT-TIME, holds model, prior, every measure and report.html. Press
Ctrl-C, or pull the plug: `--resume` goes on from the last whole epoch.
"""

import shlex
import sys

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import keras
import numpy as np

import dataset
import hyperparameters
import modules
import similarity
from brainvq.data import steps_to_config
from brainvq.errors import UserError
from brainvq.files import atomic_path, write_json, write_text
from brainvq.training.augment import Augment
from brainvq.training.codebook import encode_to_file
from brainvq.training.fit import UnseenLoss, UnseenSimilarity, duration, fit, optimizer
from brainvq.training.pretrained import load_model
from brainvq.training.programs import Clock, run_program
from brainvq.training.runs import RunFolder
from brainvq.training.stream import BatchStream
from brainvq.training.windows import ForegroundWindows

# Slices of unseen subjects that are looked at after every epoch: enough for SSIM to three digits.
WATCHED = 256
# The run of this process, for what is said after Ctrl-C.
OPENED = []


def main(arguments):
    """Runs every stage that the run's folder does not hold yet."""
    run, study = open_run(arguments)
    OPENED.append(run)
    log = run.log_to_file()
    log.info("run %s (Keras %s on %s)", run.path, keras.__version__, keras.backend.backend())
    clock = Clock(run.file("timings.json"))

    with clock("data"):
        scans = dataset.cohort_of_run(study, run)
        store = dataset.arrays(study, scans)
        rows = dataset.split_rows(scans, store)
    log.info("%s", scans.describe())
    if scans.simulated:
        log.info("these brains are simulated; use --data.source for real scans")

    with clock("autoencoder"):
        model = train_autoencoder(study, run, store, rows)
    codes = prior = None
    if model.bottleneck.num_codes:
        with clock("codes"):
            codes = {split: encode_split(study, run, model, store, rows, split) for split in rows}
        with clock("prior"):
            prior = train_prior(study, run, model, store, rows, codes)
    with clock("measures"):
        similarity.measure_run(run, study, scans, store, rows, model, prior, codes)
    with clock("report"):
        similarity.report_run(run, study, scans, store, rows, model, prior, codes)
    write_json(run.file("finished.json"), {"seconds": clock.total()})
    log.info("done in %s: open %s", duration(clock.total()), run.file("report.html"))


def open_run(arguments):
    """The run to go on with, or a new one; and its study."""
    resume, rest = hyperparameters.take_option(arguments, "--resume")
    if resume is not None:
        if rest:
            raise UserError(
                f"--resume: found other options ({' '.join(rest)}); expected --resume RUN alone, "
                "because a run goes on with the settings it began with"
            )
        run = RunFolder.open(resume)
        return run, hyperparameters.from_dict(run.study["study"])
    study = hyperparameters.parse(arguments, "python train.py", __doc__)
    try_networks(study)
    scans = dataset.cohort(study)
    content = {
        "study": hyperparameters.to_dict(study),
        "steps": steps_to_config(dataset.steps(study)),
        "command": shlex.join(["python", "train.py", *arguments]),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    # Nothing is on disk until here: a mistake leaves it as it was.
    run = RunFolder.create(study.runs, study.name, study.variant, content)
    dataset.keep_cohort(scans, run)
    return run, study


def try_networks(study):
    """Builds both networks once: a wrong number should stop a run before hours of work."""
    model = modules.build_autoencoder(study)
    Augment(**vars(study.train.augment))
    if model.bottleneck.num_codes:
        grid = model.code_shape((study.data.size, study.data.size, 1))
        modules.build_prior(study, grid, model.num_codes)


def train_autoencoder(study, run, store, rows):
    """Encoder, codebook and decoder; trained once, loaded after that."""
    if run.has("model.keras"):
        return load_model(run.file("model.keras"))
    options = study.train
    keras.utils.set_random_seed(study.seed)
    changes = Augment(**vars(options.augment))
    stream = BatchStream(
        store.read,
        rows["train"],
        options.batch_size,
        shuffle=True,
        seed=study.seed,
        augment=ForegroundWindows(options.window, changes) if options.window else changes,
    )
    variance = float(np.var(store.read(similarity.spread(rows["train"], 512))))
    model = modules.build_autoencoder(study, variance=variance)
    model.compile(
        optimizer(
            options.learning_rate,
            options.epochs * len(stream),
            schedule=options.schedule,
            warmup=options.warmup,
            weight_decay=options.weight_decay,
        )
    )
    watched = similarity.spread(rows["validation"], WATCHED)
    unseen = BatchStream(store.read, watched, options.batch_size)
    fit(
        model,
        stream,
        epochs=options.epochs,
        state=run.file("checkpoints", "model.npz"),
        history_csv=run.file("history.csv"),
        callbacks=[UnseenLoss(unseen), UnseenSimilarity(store.read(watched), similarity.watch)],
        tensorboard=run.file("tensorboard", "model"),
        title=f"{study.name} {study.variant}",
    )
    write_text(run.file("model.txt"), network_text(model))
    save(run, "model", model)
    return model


def encode_split(study, run, model, store, rows, split):
    """Codes of a split, in `codes/<split>.npy`; those of training also in augmented copies."""
    copies = study.prior.copies if split == "train" else 1
    return encode_to_file(
        run.file("codes", f"{split}.npy"),
        model,
        store.read,
        rows[split],
        copies=copies,
        augment=Augment(**vars(study.train.augment)),
        seed=study.seed,
        title=f"codes of the {split} split",
    )


def train_prior(study, run, model, store, rows, codes):
    """The PixelCNN over the codes; trained once, loaded after that."""
    if run.has("prior.keras"):
        return load_model(run.file("prior.keras"))
    options = study.prior
    keras.utils.set_random_seed(study.seed + 1)
    stream = BatchStream(
        codes["train"],
        np.arange(len(codes["train"])),
        options.batch_size,
        shuffle=True,
        seed=study.seed + 1,
        labels=similarity.labels_of(study, store, rows, codes, "train"),
    )
    unseen = BatchStream(
        codes["validation"],
        np.arange(len(codes["validation"])),
        64,
        labels=similarity.labels_of(study, store, rows, codes, "validation"),
    )
    prior = modules.build_prior(study, codes["train"].shape[1:], model.num_codes)
    prior.compile(
        optimizer(
            options.learning_rate,
            options.epochs * len(stream),
            schedule="cosine",
            warmup=options.warmup,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
        )
    )
    fit(
        prior,
        stream,
        epochs=options.epochs,
        state=run.file("checkpoints", "prior.npz"),
        history_csv=run.file("prior_history.csv"),
        callbacks=[UnseenLoss(unseen)],
        tensorboard=run.file("tensorboard", "prior"),
        title=f"{study.name} {study.variant} prior",
    )
    save(run, "prior", prior)
    return prior


def save(run, name, model):
    """Writes `<name>.weights.h5`, then `<name>.keras`, which marks the stage as done."""
    with atomic_path(run.file(f"{name}.weights.h5")) as temporary:
        model.save_weights(temporary)
    with atomic_path(run.file(f"{name}.keras")) as temporary:
        model.save(temporary)


def network_text(model):
    """The layers of encoder, bottleneck and decoder as text."""
    lines = []
    for part in (model.encoder, model.bottleneck, model.decoder):
        if hasattr(part, "summary"):
            part.summary(print_fn=lambda text, **_: lines.append(text), line_length=100)
        else:
            lines.append(f"{type(part).__name__} {part.get_config()}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":

    def hint():
        """What to type after Ctrl-C."""
        return f"Go on with: python train.py --resume {OPENED[0].path}" if OPENED else ""

    run_program(main, sys.argv[1:], on_interrupt=hint)
