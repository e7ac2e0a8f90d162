"""Reconstruct, encode and decode: a loop each over the files of any kind of sample."""

import time
from pathlib import Path

import pandas as pd

from brainvq.files import write_tsv
from brainvq.tasks.names import inputs, participant_of, readable_inputs


def reconstruct(trained, options, log):
    """Writes each file's reconstruction where the file came from, and how alike the two are.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: options of the verb, see `brainvq.options.verbs`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    samples, rows = trained.task.samples, []
    for sample in samples.read(trained, options, log):
        started = time.perf_counter()
        restored = sample.reconstruct(options.batch_size)
        whole = sample.restore(restored)
        measured = sample.measures(restored, whole)
        sample.save(whole, options.out)
        picture = options.out / f"{sample.name}_reconstruction.png"
        sample.picture(restored, whole, measured, picture)
        whose = {"participant_id": participant_of(sample.name, sample.path)}
        rows += [whose | row for row in measured]
        seconds = time.perf_counter() - started
        log.info("%s: %s (%.1f s)", sample.path, sample.summary(measured[-1]), seconds)
    write_tsv(options.out / "similarity.tsv", pd.DataFrame(rows))
    log.info("%d rows in %s (%s)", len(rows), options.out, samples.similarity(trained))


def encode(trained, options, log):
    """Writes each file's codes or vector, what decoding needs to know, and a table.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: options of the verb, see `brainvq.options.verbs`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    samples, rows = trained.task.samples, []
    samples.require_codes(trained, "encode")
    for sample in samples.read(trained, options, log):
        started = time.perf_counter()
        latents = sample.encode(options.batch_size)
        sample.save_latents(latents, options.out)
        rows.append(sample.row(latents))
        seconds = time.perf_counter() - started
        log.info("%s: %s (%.1f s)", sample.path, sample.describe(latents), seconds)
    samples.finish_encode(trained, rows, options.out, log)


def decode(trained, options, log):
    """Writes what each file of codes or vectors decodes to, and a picture of it.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: options of the verb, see `brainvq.options.verbs`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    samples = trained.task.samples
    samples.start_decode(trained, log)
    # The folder may be that of the codes, whose names stand there for the files they are of.
    names = inputs(map(Path, options.files), people=False)

    def read(path):
        return samples.read_latents(path, names[path].name, trained)

    for path, _, (latents, sample) in readable_inputs(names, read, log):
        decoded = sample.decode(latents, options.batch_size)
        log.info("%s: %s", path, sample.save_decoded(decoded, options.out))
