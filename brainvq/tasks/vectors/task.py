"""The task of vectors: their training, which may be adversarial, and what is measured after it."""

import dataclasses

import keras
import numpy as np

from brainvq.files import write_json
from brainvq.models import set_components, set_mean
from brainvq.reports.vector_pages import vectors_card, vectors_report
from brainvq.tasks.base import optimizer_of
from brainvq.tasks.vectors.comparison import compare_vectors
from brainvq.tasks.vectors.figures import vector_figures
from brainvq.tasks.vectors.measures import measure_vectors, principal_components
from brainvq.tasks.vectors.samples import VectorSamples
from brainvq.tasks.volumes.task import Volumes
from brainvq.training.fit import fit
from brainvq.training.health import AdversarialHealth


class Vectors(Volumes):
    """Volumes that become a vector each; see `Task`."""

    kind = "vectors"
    least_test = 2  # samples are as different as pairs of people
    batch_size = 16
    watched = 16
    samples = VectorSamples()
    report = staticmethod(vectors_report)
    card = staticmethod(vectors_card)

    # --- training -------------------------------------------------------------------------------

    def start(self, run, model):
        """The decoder starts at the mean volume, and a linear path at principal components."""
        mean = mean_volume(run.store, run.rows["train"], self.batch_size)
        set_mean(model.encoder, model.decoder, *mean)
        if run.study.model.network.linear:
            components = principal_components(run)
            set_components(model.encoder, model.decoder, components.component_volumes)

    def pretrain(self, run, model, stream, callbacks):
        """Trains an IntroVAE as a VAE first; goes on where that was stopped."""
        study, options = run.study, run.study.train
        if not options.vae_epochs or not model.is_adversarial:
            return
        objective = dataclasses.replace(study.model.objective, form="vae")
        plain = dataclasses.replace(study.model, objective=objective)
        keras.config.set_dtype_policy(options.precision)
        try:
            vae = plain.build(study.input_shape, seed=study.seed)
        finally:
            keras.config.set_dtype_policy("float32")
        _copy_weights(model, vae)
        self.compile(vae, options, options.vae_epochs * len(stream))
        fit(
            vae,
            stream,
            epochs=options.vae_epochs,
            state=run.file("checkpoints", "vae.npz"),
            history_csv=run.file("vae_history.csv"),
            callbacks=[*callbacks, *run.tracker.callbacks("vae")],
            tensorboard=run.file("tensorboard", "vae"),
            title=f"{study.name} {study.variant}, as a VAE",
        )
        _copy_weights(vae, model)

    def compile(self, model, options, steps):
        """Two optimisers where encoder and decoder are trained against each other."""
        if not model.is_adversarial:
            return super().compile(model, options, steps)
        model.compile(
            encoder_optimizer=optimizer_of(options, steps),
            decoder_optimizer=optimizer_of(options, steps, options.decoder_rate),
        )

    def callbacks(self):
        """What watches whether the encoder stays a critic of the decoder."""
        return [AdversarialHealth()]

    def finish(self, run, model):
        """Fits what is drawn from, where the study wants that."""
        if model.fitted_draws:
            rows = run.some("train", model.fitted_draws)
            model.fit_draws(run.store.read(rows), self.batch_size)

    # --- after training -------------------------------------------------------------------------

    def measure(self, run):
        """Measures of test subjects; see `measure_vectors`."""
        return measure_vectors(run)

    def figures(self, run, metrics):
        """All figures of a run: dict of name to path."""
        return vector_figures(run, metrics)

    def compare(self, runs, again, log):
        """Tables and figures of several runs; measures first what has no measures."""
        for run in runs:
            if again or not run.metrics():
                log.info("%s: measuring", run.path)
                write_json(run.file("metrics.json"), self.measure(run))
        compare_vectors(runs, log)


def mean_volume(store, rows, batch_size):
    """Mean of samples and the distance of a voxel from it; read in batches.

    Args:
        store: `brainvq.data.ArrayStore`.
        rows: int array, sample numbers.
        batch_size: samples at a time.

    Returns:
        Mean, float64 of a sample's shape, and the root mean square over all voxels of the
        difference from it, a float.
    """
    total = squares = 0.0
    for start in range(0, len(rows), batch_size):
        batch = store.read(rows[start : start + batch_size]).astype("float64")
        total, squares = total + batch.sum(axis=0), squares + np.square(batch).sum(axis=0)
    mean = total / len(rows)
    return mean, float(np.sqrt(np.mean(np.maximum(squares / len(rows) - mean**2, 0))))


def _copy_weights(source, target):
    for part in ("encoder", "decoder"):
        getattr(target, part).set_weights(getattr(source, part).get_weights())
