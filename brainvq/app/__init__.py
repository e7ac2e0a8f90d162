"""The verbs of the application: train, predict, compare, prepare, simulate; none knows a kind."""

SCRIPTS = {"train": "train.py", "predict": "predict.py", "compare": "similarity.py"}


def settle_keras():
    """The number type and the order of axes of this project, whatever the user's keras.json says.

    Call it once Keras may be imported, before networks are built or loaded.
    """
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)


def typed(command, prog):
    """What the user types for another command: as a script, or as `brainvq`, as with `prog`."""
    return f"brainvq {command}" if prog.startswith("brainvq") else f"python {SCRIPTS[command]}"
