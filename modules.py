"""From a study to its model: the layers and models of brainvq in one place.

    from modules import *

gives every layer and model, `build_autoencoder`, and `vqvae_trainer`: the default study's model,
ready for `vqvae_trainer.load_weights("runs/.../model.weights.h5")`. For the weights of another
study or variant: `build_autoencoder(STUDIES["oasis2d"]["paper"])`.
"""

import brainvq
from brainvq import *
from brainvq.studies import DEFAULT_STUDY, DEFAULT_VARIANT, STUDIES

__all__ = [*brainvq.__all__, "STUDIES", "build_autoencoder", "vqvae_trainer"]


def build_autoencoder(study):
    """The autoencoder of a study (`brainvq.options.Study`), with its weights made."""
    return study.model.build(study.data.input_shape, seed=study.seed)


def __getattr__(name):
    # Made when asked for: `import modules` itself should cost nothing.
    if name == "vqvae_trainer":
        globals()[name] = build_autoencoder(STUDIES[DEFAULT_STUDY][DEFAULT_VARIANT])
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
