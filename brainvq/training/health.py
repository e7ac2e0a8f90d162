"""Watches the training of an `IntroVAE`, whose two parts can lose each other."""

import logging

import keras

from brainvq.training.fit import first_not_finite, first_not_finite_weight

logger = logging.getLogger("brainvq")


class AdversarialHealth(keras.callbacks.Callback):
    """Stops on NaN with the last good weights, and says so when the encoder is no critic any more.

    `kl_gap` of the history, the divergence of generated volumes less that of real ones, is what
    the training lives on: at zero the encoder takes one for the other, the decoder learns no more
    from it than in a VAE, and generated volumes stay blurred (Daniel & Tamar's published code stops
    at a gap of −1). A warning is given once each time that it stays low.

    As soon as a value of the logs or, at the end of an epoch, a weight is NaN or infinite, training
    stops, and the model gets the weights back that it had after the last epoch without one. In
    `brainvq.training.fit`, which stops by itself, the state on disk is that of the same epoch.

    Args:
        least_gap: float, nats; a gap of so much or less is low. Default 0.
        patience: int ≥ 1, epochs in a row with a low gap before the warning. Default 5.
    """

    def __init__(self, least_gap=0.0, patience=5):
        super().__init__()
        self.least_gap, self.patience = least_gap, patience

    def on_train_begin(self, logs=None):
        """Keeps the weights of the start."""
        self.diverged, self.low_epochs = None, 0
        self._good = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        """Stops on NaN."""
        self.diverged = first_not_finite(logs)
        if self.diverged is not None:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the weights of a good epoch and looks at the gap."""
        self.diverged = self.diverged or first_not_finite_weight(self.model)
        if self.diverged is not None:
            self.model.stop_training = True
            logger.warning(
                "epoch %d: the %s; training stops, with the weights of the last good epoch",
                epoch + 1,
                self.diverged,
            )
            return
        self._good = self.model.get_weights()
        gap = (logs or {}).get("kl_gap")
        if gap is None:  # a VAE
            return
        self.low_epochs = self.low_epochs + 1 if gap <= self.least_gap else 0
        if self.low_epochs == self.patience:
            logger.warning(
                "epoch %d: kl_fake - kl_real is %.3g, at most %g for %d epochs: the encoder no "
                "longer tells generated volumes from real ones, and samples will not get sharper; "
                "raise margin, with adversarial_weight below 0.5 (hinge), or lower beta_neg (soft)",
                epoch + 1,
                gap,
                self.least_gap,
                self.patience,
            )

    def on_train_end(self, logs=None):
        """Puts the last good weights back where training diverged."""
        # Not earlier: on JAX the trainer writes the state of its last step back before this.
        if self.diverged is not None:
            self.model.set_weights(self._good)
        self._good = None
