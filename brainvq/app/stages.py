"""The stages of a training: autoencoder, codes, prior; each done once, loaded after that."""

import logging
import math
import shutil
import zipfile

import keras
import numpy as np

from brainvq.data import steps_to_config
from brainvq.errors import UserError
from brainvq.files import atomic_path, write_text
from brainvq.layers.quantizer import Quantizer
from brainvq.tasks import of
from brainvq.tasks.base import prior_codes, prior_grid
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.trained import load
from brainvq.training import codebook_init
from brainvq.training.codebook import encode_to_file
from brainvq.training.fit import BestWeights, UnseenLoss, UnseenSimilarity, fit, optimizer
from brainvq.training.pretrained import load_model
from brainvq.training.stream import BatchStream
from brainvq.training.windows import ForegroundWindows

logger = logging.getLogger("brainvq")


def try_networks(study):
    """Builds both networks once: a wrong number should stop a run before hours of work.

    Returns:
        The autoencoder, untrained.
    """
    model = build_autoencoder(study)
    of(study).augmentation(study)
    if study.has_prior and not study.prior.is_fitted:
        shape = prior_grid(model.code_shape(study.data.sample_shape))
        study.prior.build(shape, model.num_codes, study.classes)
    return model


def build_autoencoder(study, variance=1.0):
    """The study's autoencoder in its number type."""
    keras.config.set_dtype_policy(study.train.precision)
    try:
        return study.model.build(study.input_shape, variance=variance, seed=study.seed)
    finally:
        keras.config.set_dtype_policy("float32")  # the prior's likelihoods


def train_autoencoder(run):
    """Encoder, codebook and decoder of a `LoadedRun`."""
    if run.has("model.keras"):
        return load_model(run.file("model.keras"))
    study, task, options = run.study, run.task, run.study.train
    keras.utils.set_random_seed(study.seed)
    stream, callbacks = _streams(run)
    model = build_autoencoder(study, _variance(run))
    if not run.has("checkpoints", "model.npz"):
        _refuse_idle_codes(run, model)
        if options.pretrained is not None:
            take_weights(model, load(run.folder.study["start"]).model)
        else:
            _start(run, model)
            task.start(run, model)
            task.pretrain(run, model, stream, callbacks)
    if study.fixes_codebook:
        model.encoder.trainable = model.quantizer.trainable = False
    epochs = epochs_of(options, stream)
    task.compile(model, options, epochs * len(stream))
    fit(
        model,
        stream,
        epochs=epochs,
        state=run.file("checkpoints", "model.npz"),
        history_csv=run.file("history.csv"),
        callbacks=[*callbacks, *task.callbacks(), *run.tracker.callbacks("model")],
        tensorboard=run.file("tensorboard", "model"),
        title=f"{study.name} {study.variant}",
    )
    task.finish(run, model)
    write_text(run.file("model.txt"), network_text(model))
    save(run, "model", model)
    return model


def _refuse_idle_codes(run, model):
    """Refuses a codebook of more rows than the training samples have vectors.

    Most of it would stand for nothing, and millions of rows take all memory, or days to start.
    """
    if model.bottleneck is None or not isinstance(model.first_quantizer, Quantizer):
        return  # without a codebook that is learned
    shape = model.code_shape(run.study.data.sample_shape)
    samples = len(run.rows["train"])
    vectors = samples * math.prod(shape if model.depth is None else shape[:-1])
    if model.num_codes > vectors:
        option = run.study.model.bottleneck.codes_option
        raise UserError(
            f"--model.{option}: found {model.num_codes} codes for the {vectors} vectors of "
            f"{samples} training samples; expected fewer codes, or more samples"
        )


def _streams(run):
    """The training samples in batches, and what looks at validation samples after epochs."""
    study, task, store = run.study, run.task, run.store
    augment = task.augmentation(study)
    if study.window:
        augment = ForegroundWindows(study.window, augment)
    stream = BatchStream(
        store.read,
        run.rows["train"],
        study.train.batch_size,
        shuffle=True,
        seed=study.seed,
        augment=augment,
    )
    watched = run.some("validation", task.watched)
    unseen = BatchStream(store.read, watched, study.train.batch_size)
    watch = UnseenSimilarity(
        store.read(watched),
        task.watch,
        batch_size=min(32, task.batch_size),
        every=task.watched_every,
    )
    return stream, [UnseenLoss(unseen), watch]


def _variance(run):
    """Variance of the training samples, where the loss divides by it."""
    if not run.study.divides_by_variance:
        return 1.0
    return float(np.var(run.store.read(run.some("train", 8 * run.task.batch_size))))


def epochs_of(options, stream):
    """The epochs of a training of at most `max_steps` steps."""
    if options.max_steps is None:
        return options.epochs
    return min(options.epochs, max(1, round(options.max_steps / len(stream))))


def _start(run, model):
    """Weights and codebook from another run, or a codebook from encodings of the training samples.

    See `brainvq.options.Codebook`.
    """
    study = run.study
    if study.model.start is not None:
        start_from(run, model)
    elif study.starts_from_clusters:
        codebook_init.kmeans_initialize(
            model,
            augmented_passes(run),
            seed=study.seed,
            tail=study.model.codebook.codebook_tail,
        )


def augmented_passes(run):
    """Batches of the training samples, as often as `codebook_passes` says, each time changed."""
    study, task = run.study, run.task
    for number in range(study.model.codebook.codebook_passes):
        stream = BatchStream(
            run.store.read,
            run.rows["train"],
            task.batch_size,
            seed=study.seed + 2,
            augment=task.augmentation(study) if number else None,  # first as they are
        )
        stream.epoch = number
        yield from (stream[batch] for batch in range(len(stream)))


def check_pretrained(study, model):
    """Where the trained model lies that a study's training starts from, with a word on its scans.

    Args:
        study: a `brainvq.options.Study`.
        model: its autoencoder, untrained.

    Returns:
        `pathlib.Path` of its folder, or None where the study starts from nothing.

    Raises:
        UserError: there is none, or its network is another.
    """
    name = study.train.pretrained
    if name is None:
        return None
    trained = load(name)
    take_weights(model, trained.model)
    prepared = steps_to_config(of(study).steps(study))
    if trained.steps != prepared:
        logger.info(
            "--train.pretrained %s: its scans were prepared otherwise: %s; here: %s",
            name,
            *(
                ", ".join(str(step) for step in steps if step not in others) or "nothing else"
                for steps, others in ((trained.steps, prepared), (prepared, trained.steps))
            ),
        )
    return trained.path


def take_weights(model, trained):
    """Gives a model the weights of a trained one.

    Raises:
        UserError: it has others.
    """
    expected, found = ([tuple(w.shape) for w in each.weights] for each in (model, trained))
    if expected != found:
        raise UserError(
            f"--train.pretrained: found a network of {trained.count_params()} weights that are not "
            f"of the shapes of these {model.count_params()}; expected a trained model of the same "
            "--model options and size"
        )
    model.set_weights(trained.get_weights())


def start_from(run, model):
    """Takes weights from the run that this one starts from, and a codebook from its encodings."""
    study, options = run.study, run.study.model.codebook
    source = LoadedRun.open(run.folder.study["start"]).model
    trained = model if options.start_weights else build_autoencoder(study)
    trained.encoder.set_weights(source.encoder.get_weights())
    trained.decoder.set_weights(source.decoder.get_weights())
    if study.model.latent.sampled_latent:
        trained.bottleneck.bottlenecks[0].set_weights(source.bottleneck.get_weights())
    initialize = {
        "layer": lambda *_, **__: None,
        "kmeans": codebook_init.kmeans_initialize,
        "kohonen": codebook_init.kohonen_initialize,
        "principal": codebook_init.principal_initialize,
    }[options.codebook_start]
    radius = {"final_radius": options.kohonen_radius} if options.codebook_start == "kohonen" else {}
    codebook = initialize(trained, run.stream("train"), seed=study.seed, **radius)
    if trained is not model and codebook is not None:
        model.first_quantizer.set_codebook(codebook if codebook.ndim == 2 else codebook[0])


def encode(run):
    """Codes of each split, in `codes/<split>.npy`; those of training also in augmented copies."""
    study, task = run.study, run.task
    copies = study.prior.encodings if study.prior else 1
    return {
        split: encode_to_file(
            run.file("codes", f"{split}.npy"),
            run.model,
            run.store.read,
            run.rows[split],
            copies=copies if split == "train" else 1,
            augment=task.augmentation(study),
            seed=study.seed,
            batch_size=task.batch_size,
            title=f"codes of the {split} split",
        )
        for split in run.rows
    }


def train_prior(run):
    """The prior over the codes of a `LoadedRun`."""
    if run.has("prior.keras"):
        return load_model(run.file("prior.keras"))
    if run.study.prior.is_fitted:
        prior = run.task.fitted_prior(run)
        save(run, "prior", prior)
        return prior
    study, options = run.study, run.study.prior
    keras.utils.set_random_seed(study.seed + 1)
    codes = {split: prior_codes(found) for split, found in run.codes.items()}
    stream, unseen = run.task.prior_stream(run, codes["train"]), codes["validation"]
    watched = BatchStream(
        unseen,
        np.arange(len(unseen)),
        64,
        conditions=run.task.conditions(run, unseen, "validation"),
    )
    prior = options.build(
        codes["train"].shape[1:], run.model.num_codes, study.classes, run.task.plan(run)
    )
    if study.train.pretrained is not None:
        _take_prior(prior, load(run.folder.study["start"]).prior)
    epochs = stream.epochs = epochs_of(options, stream)
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
        callbacks=[UnseenLoss(watched), best, *run.tracker.callbacks("prior")],
        tensorboard=run.file("tensorboard", "prior"),
        title=f"{study.name} {study.variant} prior",
    )
    best.restore(prior)
    save(run, "prior", prior)
    return prior


def _take_prior(prior, trained):
    """The weights of a trained prior, all but its plan, which is that of other people."""
    if trained is None:
        logger.info("--train.pretrained: has no prior; this one starts anew")
        return
    own, found = (_weights_but_plan(each) for each in (prior, trained))
    if [tuple(w.shape) for w in own] != [tuple(w.shape) for w in found]:
        logger.info("--train.pretrained: has a prior of another form; this one starts anew")
        return
    for weight, value in zip(own, found, strict=True):
        weight.assign(value)


def _weights_but_plan(prior):
    plan = {id(weight) for weight in prior.plan.weights} if prior.plan is not None else ()
    return [weight for weight in prior.weights if id(weight) not in plan]


def save(run, name, model):
    """Writes `<name>.weights.h5`, then `<name>.keras`, which marks the stage as done."""
    with atomic_path(run.file(f"{name}.keras")) as temporary:
        model.save(temporary)
        # Taken from what is saved: HDF5 that meets a full disk itself prints its own tracebacks.
        with (
            zipfile.ZipFile(temporary) as saved,
            saved.open("model.weights.h5") as content,
            atomic_path(run.file(f"{name}.weights.h5")) as weights,
            open(weights, "wb") as file,
        ):
            shutil.copyfileobj(content, file)


def network_text(model):
    """The layers of encoder, bottleneck (where there is one) and decoder as text."""
    lines = []
    for part in (model.encoder, model.bottleneck, model.decoder):
        if isinstance(part, keras.Model):
            part.summary(print_fn=lambda text, **_: lines.append(text), line_length=100)
        elif part is not None:
            lines.append(f"{type(part).__name__} {part.get_config()}")
    return "\n".join(lines) + "\n"
