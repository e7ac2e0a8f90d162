"""Models as files that other programs run, without brainvq."""

import keras


class Exports:
    """The part of a model that exports it; stands before `keras.Model` among the bases."""

    def endpoints(self, inputs=None) -> dict:
        """What is exported: functions of the model, by name.

        Args:
            inputs: `keras.InputSpec` of what the model is called on, or a dict of them. Default:
                any number of samples of the size that the model was made for.

        Returns:
            Dict of name → tuple of a function of one tensor (or dict of tensors) that returns a
            tensor or a flat dict of tensors, and the `keras.InputSpec` of its argument. `"serve"`,
            what `predict` returns, is always there.
        """
        raise NotImplementedError

    def export(
        self,
        filepath: str,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature=None,
        endpoint: str | None = None,
        **kwargs,
    ):
        """Exports the model for inference by programs that know neither brainvq nor Keras.

        A SavedModel holds all `endpoints` as functions of tensors:

            >>> model.export("folder")
            >>> loaded = tf.saved_model.load("folder")
            >>> codes = loaded.encode(images)

        Files of other formats hold one function. They take samples of the sizes in
        `input_signature` alone: what is no multiple of an encoder's stride is not padded.

        Args:
            filepath: the folder of the SavedModel, or the file.
            format: see `keras.Model.export`: `"tf_saved_model"` (default), `"onnx"` where its
                converter is installed, and others.
            verbose: see `keras.Model.export`.
            input_signature: see `endpoints`, `inputs`; a list of it, as Keras has it, is taken too.
            endpoint: name of the one function to export. Default None: all of them in a
                SavedModel, in other formats `"serve"`.
            **kwargs: see `keras.Model.export`.

        Raises:
            ValueError: if there is no such endpoint.
        """
        if isinstance(input_signature, list | tuple):
            (input_signature,) = input_signature
        functions = self.endpoints(input_signature)
        if endpoint is None and format != "tf_saved_model":
            endpoint = "serve"
        if endpoint is not None and endpoint not in functions:
            raise ValueError(
                f"`endpoint` must be one of {list(functions)}. Received: endpoint={endpoint}"
            )
        if format != "tf_saved_model":
            function, spec = functions[endpoint]
            network = _Endpoint(self, function)
            network.export(filepath, format, verbose, [spec], **kwargs)
            return
        archive = keras.export.ExportArchive()
        archive.track(self)
        for name, (function, spec) in functions.items():
            if endpoint in (None, name):
                archive.add_endpoint(name, _Endpoint(self, function).__call__, [spec], **kwargs)
        archive.write_out(filepath, verbose=True if verbose is None else verbose)


class _Endpoint(keras.Model):
    """A function of a model as a model."""

    def __init__(self, owner, function):
        super().__init__(name="endpoint")
        self.owner = owner
        self.function = function
        self.built = True

    def call(self, inputs):
        """Applies the function."""
        return self.function(inputs)
