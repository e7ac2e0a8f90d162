"""Two optimisers that Keras takes for one."""

import keras


@keras.saving.register_keras_serializable(package="brainvq")
class PairedOptimizer(keras.optimizers.Optimizer):
    """The optimiser of an encoder and the optimiser of a decoder, as one.

    A `keras.Model` has one `optimizer`, and whatever saves, restores or carries the state of a
    training looks there: the `.keras` file, the trainer of JAX, `brainvq.training.fit`. With both
    in that place none of them can forget one, and a stopped training goes on as it was.

    Args:
        encoder_optimizer: `keras.optimizers.Optimizer`.
        decoder_optimizer: another one.
        name: str.
    """

    def __init__(
        self,
        encoder_optimizer: keras.optimizers.Optimizer,
        decoder_optimizer: keras.optimizers.Optimizer,
        name: str = "paired_optimizer",
    ):
        super().__init__(learning_rate=0.0, name=name)
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self._pair = (encoder_optimizer, decoder_optimizer)

    def build(self, variables):
        """Makes the state of both.

        Args:
            variables: pair of lists, the trainable variables of the encoder and of the decoder.
        """
        for optimizer, own in zip(self._pair, variables, strict=True):
            optimizer.build(own)
        self._parts = tuple(list(own) for own in variables)
        self.built = True

    @property
    def variables(self):
        """The state of both, the encoder's first."""
        return [variable for optimizer in self._pair for variable in optimizer.variables]

    def apply(self, grads, trainable_variables=None):
        """Takes one step with each.

        Args:
            grads: list of gradients, the encoder's first.
            trainable_variables: ignored; those of `build`.
        """
        del trainable_variables
        first, second = self._parts
        self.encoder_optimizer.apply(grads[: len(first)], first)
        self.decoder_optimizer.apply(grads[len(first) :], second)

    @property
    def learning_rate(self):
        """The encoder's; setting it changes the decoder's by the same factor."""
        return self.encoder_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        factor = float(learning_rate) / float(self.encoder_optimizer.learning_rate)
        self.encoder_optimizer.learning_rate = learning_rate
        self.decoder_optimizer.learning_rate = factor * float(self.decoder_optimizer.learning_rate)

    @property
    def iterations(self):
        """Steps taken."""
        return self.encoder_optimizer.iterations

    def finalize_variable_values(self, var_list):
        """Puts moving averages into the weights, where an optimiser keeps any (`use_ema`)."""
        del var_list
        for optimizer, own in zip(self._pair, self._parts, strict=True):
            optimizer.finalize_variable_values(own)

    def save_own_variables(self, store):
        """Writes nothing: the two save their states themselves."""

    def load_own_variables(self, store):
        """Reads nothing: the two load their states themselves."""

    def get_config(self):
        """Returns the constructor's arguments, the two in serialised form."""
        return {
            "encoder_optimizer": keras.saving.serialize_keras_object(self.encoder_optimizer),
            "decoder_optimizer": keras.saving.serialize_keras_object(self.decoder_optimizer),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds both from `get_config`."""
        pair = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("encoder_optimizer", "decoder_optimizer")
        }
        return cls(**{**config, **pair})
