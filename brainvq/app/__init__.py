"""The verbs of the application: train, predict, compare, prepare, simulate; none knows a kind."""

SCRIPTS = {"train": "train.py", "predict": "predict.py", "compare": "similarity.py"}


def typed(command, prog):
    """What the user types for another command: as a script, or as `brainvq`, as with `prog`."""
    return f"brainvq {command}" if prog.startswith("brainvq") else f"python {SCRIPTS[command]}"
