"""Train a study from files on disk to new brains, tables, figures and a report.

    python train.py                                              the demo, on simulated brains
    python train.py oasis2d --data.source bids --data.root DIR   on your own scans
    python train.py oasis2d --variant paper                      the network of the source
    python train.py som3d --variants all                         one variant after the other, each
                                                                 after what it starts from; done
                                                                 ones are skipped, stopped ones
                                                                 go on
    python train.py --resume RUN                                 go on with a run that was stopped

The run's folder, runs/STUDY-VARIANT-TIME, holds model, prior, every measure and report.html. Press
Ctrl-C, or pull the plug: `--resume` goes on from the last whole epoch.
"""

import dataclasses
import shlex
import sys
from pathlib import Path

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import keras
import numpy as np

import bundles
import dataset
import hyperparameters
import modules
import similarity
import vectors
from brainvq.data import steps_to_config
from brainvq.errors import UserError
from brainvq.files import atomic_path, write_json, write_text
from brainvq.training import codebook_init
from brainvq.training.augment import Augment, BundleAugment
from brainvq.training.codebook import encode_to_file
from brainvq.training.fit import BestWeights, UnseenLoss, UnseenSimilarity, duration, fit, optimizer
from brainvq.training.health import AdversarialHealth
from brainvq.training.pretrained import load_model
from brainvq.training.programs import Clock, run_program
from brainvq.training.runs import RunFolder, start_log
from brainvq.training.stream import BatchStream
from brainvq.training.windows import ForegroundWindows

# Samples of unseen subjects that are looked at after every epoch: enough for SSIM to three digits.
# Volumes every so many epochs: 3D SSIM takes a second each, or less of coarse ones.
WATCHED = {"slices": 256, "bundles": 256, "volumes": 2, "vectors": 16}
WATCHED_EVERY = 10
# The run of this process, for what is said after Ctrl-C.
OPENED = []


def main(arguments):
    """Trains what the command line asks for: one run, or several variants."""
    variants, rest = hyperparameters.take_option(arguments, "--variants")
    if variants is not None:
        return train_variants(variants, rest)
    run, study = open_run(arguments)
    return train_run(run, study)


def train_variants(names, arguments):
    """Trains variants of a study in the order of their dependencies; what is done is skipped."""
    _, rest = hyperparameters.take_option(arguments, "--variant")
    if len(rest) < len(arguments):
        raise UserError("--variant: found beside --variants; expected one of them")
    name = rest[0] if rest and not rest[0].startswith("-") else hyperparameters.DEFAULT_STUDY
    known = hyperparameters.variants_in_order(name)
    chosen = known if names == "all" else names.split(",")
    for variant in chosen:
        if variant not in known:
            raise UserError(
                f"--variants: found {variant!r}; expected all, or some of {','.join(known)}"
            )
    log = start_log()
    finished = []
    for variant in known:
        if variant not in chosen:
            continue
        words = [*rest, "--variant", variant]
        study = hyperparameters.parse(words, "python train.py", __doc__)
        run = run_of(study)
        if run is None:
            run, study = open_run(words)
        if run.has("finished.json"):
            log.info("%s %s: done, in %s", study.name, variant, run.path)
        else:
            train_run(run, study)
            # What one variant leaves in memory should not add up over the table.
            keras.utils.clear_session(free_memory=True)
        finished.append(str(run.path))
    log.info("compare them: python similarity.py %s", shlex.join(finished))


def run_of(study):
    """The newest run with just these settings, finished or not; None where there is none."""
    for path in sorted(Path(study.runs).glob(f"{study.name}-{study.variant}-*"), reverse=True):
        try:
            run = RunFolder.open(path)
            found = hyperparameters.from_dict(run.study["study"])
        except UserError:
            continue  # a folder of another version, or no run at all
        if found == study:
            return run
    return None


def train_run(run, study):
    """Runs every stage that the run's folder does not hold yet."""
    OPENED[:] = [run]
    log = run.log_to_file()
    log.info("run %s (Keras %s on %s)", run.path, keras.__version__, keras.backend.backend())
    clock = Clock(run.file("timings.json"))

    with clock("data"):
        scans = dataset.cohort_of_run(study, run)
        store = dataset.arrays(study, scans)
        rows = dataset.split_rows(scans, store, study)
        if store.layout == "bundles":
            store = dataset.in_units(store, rows, run)
    log.info("%s", scans.describe())
    if scans.simulated:
        log.info("these data are simulated; use --data.source for real scans")

    with clock("autoencoder"):
        model = train_autoencoder(study, run, store, rows)
    codes = prior = None
    if model.num_codes:
        with clock("codes"):
            codes = {split: encode_split(study, run, model, store, rows, split) for split in rows}
    if codes and study.prior.epochs and model.decodes_codes:
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
    start = start_of(study)
    try_networks(study)
    scans = dataset.cohort(study)
    content = {
        "study": hyperparameters.to_dict(study),
        "steps": steps_to_config(dataset.steps(study)),
        "command": shlex.join(["python", "train.py", *arguments]),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    if start is not None:
        content["start"] = str(start.path.resolve())
    # Nothing is on disk until here: a mistake leaves it as it was.
    run = RunFolder.create(study.runs, study.name, study.variant, content)
    dataset.keep_cohort(scans, run)
    return run, study


def start_of(study):
    """The trained run that a variant starts from, or None where it starts from nothing."""
    wanted = study.model.start
    if wanted is None:
        return None
    chosen = study.train.start_run
    paths = (
        sorted(Path(study.runs).glob(f"{study.name}-{wanted}-*"), reverse=True)
        if chosen is None
        else [Path(chosen)]
    )
    for path in paths:
        try:
            run = RunFolder.open(path)
            found = hyperparameters.from_dict(run.study["study"])
        except UserError:
            if chosen is not None:
                raise
            continue
        # Another split would have shown it the subjects that this run is tested on.
        same = same_data(found) == same_data(study) and found.model.filters == study.model.filters
        if same and found.variant == wanted and run.has("model.keras"):
            return run
    if chosen is not None:
        raise UserError(
            f"--train.start-run: found {chosen}, of other data, split or filters, or not trained; "
            "expected a trained run on the same data"
        )
    raise UserError(
        f"--variant {study.variant}: found no trained run of {wanted} on these data in "
        f"{study.runs}; expected one: python train.py {study.name} --variant {wanted}, or "
        f"--variants {wanted},{study.variant}"
    )


def same_data(study):
    """What must be equal for two runs to have the same arrays and the same split."""
    return dataclasses.replace(study.data, cache="", workers=None, transfer=()), study.seed


def try_networks(study):
    """Builds both networks once: a wrong number should stop a run before hours of work."""
    model = build_autoencoder(study)
    augmentation(study)
    if study.prior.epochs and model.decodes_codes:
        shape = modules.prior_grid(model.code_shape(dataset.sample_shape(study)))
        modules.build_prior(study, shape, model.num_codes)


def build_autoencoder(study, variance=1.0):
    """The study's autoencoder in its number type."""
    keras.config.set_dtype_policy(study.train.precision)
    try:
        return modules.build_autoencoder(study, variance=variance)
    finally:
        keras.config.set_dtype_policy("float32")  # the prior's likelihoods


def augmentation(study):
    """The random changes of training samples."""
    if hyperparameters.layout(study.data) == "bundles":
        return BundleAugment(study.train.deform, study.train.permute)
    # Left and right: columns of a slice, the first axis of a volume.
    return Augment(**vars(study.train.augment), flip_axis=1 if study.data.shape is None else 0)


def train_autoencoder(study, run, store, rows):
    """Encoder, codebook and decoder; trained once, loaded after that."""
    if run.has("model.keras"):
        return load_model(run.file("model.keras"))
    options = study.train
    keras.utils.set_random_seed(study.seed)
    changes = augmentation(study)
    stream = BatchStream(
        store.read,
        rows["train"],
        options.batch_size,
        shuffle=True,
        seed=study.seed,
        augment=ForegroundWindows(options.window, changes) if options.window else changes,
    )
    kind = hyperparameters.kind(study)
    at_a_time = similarity.BATCH[kind]
    variance = 1.0
    if study.model.data_variance:
        picked = dataset.spread(rows["train"], 8 * at_a_time)
        variance = float(np.var(store.read(picked)))
    watched = dataset.spread(rows["validation"], WATCHED[kind])
    unseen = BatchStream(store.read, watched, options.batch_size)
    watch = UnseenSimilarity(
        store.read(watched),
        similarity.watch if store.layout != "bundles" else bundles.watch,
        batch_size=min(32, at_a_time),
        every=1 if store.layout == "slices" else WATCHED_EVERY,
    )
    model = build_autoencoder(study, variance)
    if not run.has("checkpoints", "model.npz"):
        if study.model.start is not None:
            start_from(study, run, model, BatchStream(store.read, rows["train"], at_a_time))
        elif study.model.codebook_start == "kmeans":
            passes = augmented_passes(study, store, rows["train"], at_a_time)
            tail = study.model.codebook_tail
            codebook_init.kmeans_initialize(model, passes, seed=study.seed, tail=tail)
        if kind == "vectors":
            found = mean_volume(store, rows["train"], at_a_time)
            modules.set_mean(model.encoder, model.decoder, *found)
            if study.model.linear:
                components = vectors.principal_components(study, store, rows["train"])
                modules.set_components(model.encoder, model.decoder, components.volumes)
            if study.train.vae_epochs and model.is_adversarial:
                begin_as_vae(study, run, model, stream, unseen, watch)
    if study.model.codebook_fixed:
        model.encoder.trainable = model.quantizer.trainable = False
    epochs = epochs_of(options, stream)
    steps = epochs * len(stream)
    if kind == "vectors" and model.is_adversarial:
        model.compile(
            encoder_optimizer=optimizer_of(options, steps),
            decoder_optimizer=optimizer_of(options, steps, options.decoder_rate),
        )
    else:
        model.compile(optimizer_of(options, steps))
    fit(
        model,
        stream,
        epochs=epochs,
        state=run.file("checkpoints", "model.npz"),
        history_csv=run.file("history.csv"),
        callbacks=[
            UnseenLoss(unseen),
            watch,
            *([AdversarialHealth()] if kind == "vectors" else []),
        ],
        tensorboard=run.file("tensorboard", "model"),
        title=f"{study.name} {study.variant}",
    )
    write_text(run.file("model.txt"), network_text(model))
    save(run, "model", model)
    return model


def begin_as_vae(study, run, model, stream, unseen, watch):
    """Trains encoder and decoder of an IntroVAE as a VAE first; goes on where it was stopped."""
    options = study.train
    plain = dataclasses.replace(study, model=dataclasses.replace(study.model, form="vae"))
    vae = build_autoencoder(plain)
    for part in ("encoder", "decoder"):
        getattr(vae, part).set_weights(getattr(model, part).get_weights())
    epochs = options.vae_epochs
    vae.compile(optimizer_of(options, epochs * len(stream)))
    fit(
        vae,
        stream,
        epochs=epochs,
        state=run.file("checkpoints", "vae.npz"),
        history_csv=run.file("vae_history.csv"),
        callbacks=[UnseenLoss(unseen), watch],
        tensorboard=run.file("tensorboard", "vae"),
        title=f"{study.name} {study.variant}, as a VAE",
    )
    for part in ("encoder", "decoder"):
        getattr(model, part).set_weights(getattr(vae, part).get_weights())


def optimizer_of(options, steps, share=1.0):
    """The optimiser of a `hyperparameters.Train` for so many steps, with a share of its rate."""
    return optimizer(
        share * options.learning_rate,
        steps,
        schedule=options.schedule,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
    )


def epochs_of(options, stream):
    """The epochs of a training of at most `max_steps` steps."""
    if options.max_steps is None:
        return options.epochs
    return min(options.epochs, max(1, round(options.max_steps / len(stream))))


def mean_volume(store, rows, batch_size):
    """Mean of samples, and the root mean square distance of a voxel from it; read in batches."""
    total = squares = 0.0
    for start in range(0, len(rows), batch_size):
        batch = store.read(rows[start : start + batch_size]).astype("float64")
        total, squares = total + batch.sum(axis=0), squares + np.square(batch).sum(axis=0)
    mean = total / len(rows)
    return mean, float(np.sqrt(np.mean(np.maximum(squares / len(rows) - mean**2, 0))))


def augmented_passes(study, store, rows, batch_size):
    """Batches of the training samples, as often as `codebook_passes` says, each time changed."""
    for number in range(study.model.codebook_passes):
        stream = BatchStream(
            store.read,
            rows,
            batch_size,
            seed=study.seed + 2,
            augment=augmentation(study) if number else None,  # first as they are
        )
        stream.epoch = number
        yield from (stream[batch] for batch in range(len(stream)))


def start_from(study, run, model, stream):
    """Takes weights from the run that this one starts from, and a codebook from its encodings."""
    source = load_model(RunFolder.open(run.study["start"]).require("model.keras", "not trained"))
    options = study.model
    trained = model if options.start_weights else build_autoencoder(study)
    trained.encoder.set_weights(source.encoder.get_weights())
    trained.decoder.set_weights(source.decoder.get_weights())
    if options.sampled_latent:
        trained.bottleneck.bottlenecks[0].set_weights(source.bottleneck.get_weights())
    if options.codebook_start == "kmeans":
        codebook = codebook_init.kmeans_initialize(trained, stream, seed=study.seed)
    elif options.codebook_start == "kohonen":
        codebook = codebook_init.kohonen_initialize(
            trained, stream, seed=study.seed, final_radius=options.kohonen_radius
        )
    elif options.codebook_start == "principal":
        codebook_init.principal_initialize(trained, stream, seed=study.seed)
    if trained is not model and options.codebook_start in ("kmeans", "kohonen"):
        modules.first_quantizer(model).set_codebook(codebook if codebook.ndim == 2 else codebook[0])


def encode_split(study, run, model, store, rows, split):
    """Codes of a split, in `codes/<split>.npy`; those of training also in augmented copies."""
    copies = study.prior.copies if split == "train" else 1
    return encode_to_file(
        run.file("codes", f"{split}.npy"),
        model,
        store.read,
        rows[split],
        copies=copies,
        augment=augmentation(study),
        seed=study.seed,
        batch_size=similarity.BATCH[store.layout],
        title=f"codes of the {split} split",
    )


def train_prior(study, run, model, store, rows, codes):
    """The PixelCNN over the codes; trained once, loaded after that."""
    if run.has("prior.keras"):
        return load_model(run.file("prior.keras"))
    options = study.prior
    keras.utils.set_random_seed(study.seed + 1)
    codes = {split: modules.prior_codes(found) for split, found in codes.items()}
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
    epochs = epochs_of(options, stream)
    prior.compile(
        optimizer(
            options.learning_rate,
            epochs * len(stream),
            schedule="cosine",
            warmup=options.warmup,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
        )
    )
    best = BestWeights(run.file("checkpoints", "prior-best.npz"))
    fit(
        prior,
        stream,
        epochs=epochs,
        state=run.file("checkpoints", "prior.npz"),
        history_csv=run.file("prior_history.csv"),
        callbacks=[UnseenLoss(unseen), best],
        tensorboard=run.file("tensorboard", "prior"),
        title=f"{study.name} {study.variant} prior",
    )
    best.restore(prior)
    save(run, "prior", prior)
    return prior


def save(run, name, model):
    """Writes `<name>.weights.h5`, then `<name>.keras`, which marks the stage as done."""
    with atomic_path(run.file(f"{name}.weights.h5")) as temporary:
        model.save_weights(temporary)
    with atomic_path(run.file(f"{name}.keras")) as temporary:
        model.save(temporary)


def network_text(model):
    """The layers of encoder, bottleneck (where there is one) and decoder as text."""
    lines = []
    bottleneck = [model.bottleneck] if hasattr(model, "bottleneck") else []
    for part in (model.encoder, *bottleneck, model.decoder):
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
