"""The one place that knows which Keras backend runs.

Compiled functions, gradients and training steps of one's own, and sums over replicas.

TensorFlow, JAX and PyTorch are imported on use, so that layers and models import where only one of
them is installed.
"""

import functools
import numbers

import keras
import numpy as np


def compile_function(function, owner=None, static_argnames=()):
    """Compiles an inference function of layers or models once per input shape.

    On TensorFlow this is `tf.function(reduce_retracing=True)`, on JAX `jax.jit`; PyTorch runs it as
    it is, without a record for gradients. A jitted function that closes over a model keeps the
    weights of its first call as constants; therefore the variables of `owner` are passed in afresh
    at every call, and training after the first call is seen. On JAX, updates of variables within
    `function` are dropped: compile only functions that return all they compute.

    Arrays and plain numbers become tensors, so that another temperature does not trace again. What
    layers of `owner` name in `traced_settings` does, when it has changed.

    Args:
        function: callable of tensors that uses `keras.ops` only.
        owner: a Keras layer or model, or a list of them, whose weights `function` reads. They must
            be built at the first call.
        static_argnames: names of arguments that are constants of the compiled program (sizes,
            flags, strings): pass these by keyword. Every new value traces again.

    Returns:
        A callable with the arguments of `function`; it returns backend tensors.
    """
    owners = [] if owner is None else owner if isinstance(owner, list | tuple) else [owner]
    programs = {}

    @functools.wraps(function)
    def call(*args, **kwargs):
        settings = traced_settings(owners)
        if settings not in programs:
            # A function of its own: JAX would know the old one, and its program, again.
            fresh = functools.partial(function)
            programs[settings] = _compiled(fresh, owners, static_argnames)
        return programs[settings](*args, **kwargs)

    return call


def traced_settings(owners) -> tuple:
    """What layers hold as constants of compiled functions, and may be set anew.

    Args:
        owners: list of layers and models.

    Returns:
        A tuple of the values of the attributes that each layer names in `traced_settings`.
    """
    return tuple(
        getattr(layer, name)
        for owner in owners
        for layer in owner._flatten_layers()
        for name in getattr(layer, "traced_settings", ())
    )


def _compiled(function, owners, static_argnames):
    static = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(function, reduce_retracing=True, autograph=False)

        def call_tensorflow(*args, **kwargs):
            kwargs = {
                name: value if name in static else _as_tensor(value)
                for name, value in kwargs.items()
            }
            return compiled(*map(_as_tensor, args), **kwargs)

        return call_tensorflow
    if keras.backend.backend() == "jax":
        import jax

        @functools.partial(jax.jit, static_argnames=static)
        def stateless(values, /, *args, **kwargs):
            mapping = list(zip(_variables(owners), values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return function(*args, **kwargs)

        def call_jax(*args, **kwargs):
            return stateless([variable.value for variable in _variables(owners)], *args, **kwargs)

        return call_jax
    if keras.backend.backend() == "torch":
        import torch

        @torch.no_grad()
        def call_torch(*args, **kwargs):
            # Tensors on the device that Keras computes on, wherever the caller's come from.
            kwargs = {
                name: value if name in static else _as_tensor(value)
                for name, value in kwargs.items()
            }
            return function(*map(_as_tensor, args), **kwargs)

        return call_torch
    raise NotImplementedError(
        "brainvq runs on the TensorFlow, JAX and PyTorch backends of Keras. "
        f"Received: backend={keras.backend.backend()!r}"
    )


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def is_symbolic(tensor):
    """Whether a tensor is that of a program being traced, without a value yet."""
    if isinstance(tensor, keras.KerasTensor):
        return True
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    # On PyTorch tensors of a shape alone.
    return not hasattr(tensor, "numpy") or getattr(tensor, "is_meta", False)


def run_step(model, step, *args):
    """Runs `step(data)` as the `train_step` or `test_step` of a compiled Keras model.

    A model whose step is its own writes it once, with variables that it assigns to:

        def train_step(self, *args):
            return run_step(self, self._step, *args)

    On TensorFlow and PyTorch Keras gives `data` and wants the logs. On JAX it gives the values of
    all variables as well, and wants their new values beside the logs.

    Args:
        model: `keras.Model`, built and compiled, its optimiser too.
        step: function of a batch that returns the logs, name → scalar.
        *args: what Keras gave.

    Returns:
        What Keras expects of its backend.
    """
    if keras.backend.backend() != "jax":
        return step(*args)
    values, data = args
    groups = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
    if len(values) == 4:  # a step of training
        groups.insert(2, model.optimizer.variables)
    variables = [variable for group in groups for variable in group]
    mapping = list(zip(variables, [value for group in values for value in group], strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(variable) for variable in g] for g in groups)


def record(function, owner, targets, *inputs):
    """Evaluates a function of layers and records what the gradients of its outputs need.

    One evaluation serves several gradients: that of one output for some weights and later, when
    other weights have changed already, that of another output. Compile what calls it.

    Args:
        function: callable of `inputs` that returns a dict of tensors. Variables may change in it:
            moving statistics, states of random generators.
        owner: the model whose variables `function` reads and changes.
        targets: list of tuples, the name of an output and the list of variables whose gradients it
            shall have.
        *inputs: tensors of any shapes.

    Returns:
        Tuple of the dict and a list with a function for each of `targets`, `pull(weights=None)`,
        which gives two lists, the gradients of the output for the variables and for `inputs`. An
        output that is no scalar is summed with `weights` of its shape: the chain rule, where these
        are the gradient of something for the output.
    """
    how = {"tensorflow": _record_tensorflow, "jax": _record_jax, "torch": _record_torch}
    return how[keras.backend.backend()](function, owner, list(targets), list(inputs))


def _record_tensorflow(function, owner, targets, inputs):
    import tensorflow as tf

    del owner
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs = function(*inputs)

    def pull(name, variables, weights=None):
        gradients = tape.gradient(outputs[name], [*variables, *inputs], output_gradients=weights)
        return gradients[: len(variables)], gradients[len(variables) :]

    return outputs, [functools.partial(pull, *target) for target in targets]


def _record_jax(function, owner, targets, inputs):
    import jax

    everything = owner.variables
    before = {id(variable): variable.value for variable in everything}

    def go_back(back, value, weights=None):
        return back(keras.ops.ones_like(value) if weights is None else weights)

    def evaluate(values, inputs, targets):
        """Outputs, new values of all variables, and the way back from each target."""
        if not targets:
            mapping = [(variable, values[id(variable)]) for variable in everything]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                outputs = function(*inputs)
            return outputs, [scope.get_current_value(variable) for variable in everything], []
        (name, variables), rest = targets[0], targets[1:]

        def output(chosen, inputs):
            given = {id(v): value for v, value in zip(variables, chosen, strict=True)}
            results = evaluate(values | given, inputs, rest)
            return results[0][name], results

        chosen = [values[id(variable)] for variable in variables]
        # One inside the other, so that the function itself is evaluated once for all of them.
        value, back, (outputs, changed, pulls) = jax.vjp(output, chosen, inputs, has_aux=True)

        return outputs, changed, [jax.tree_util.Partial(go_back, back, value), *pulls]

    outputs, changed, pulls = evaluate(before, inputs, targets)
    for variable, value in zip(everything, changed, strict=True):
        if value is not before[id(variable)]:
            variable.assign(value)
    return outputs, pulls


def _record_torch(function, owner, targets, inputs):
    import torch

    del owner
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        outputs = function(*inputs)

    def pull(name, variables, weights=None):
        output, wanted = outputs[name], [*(variable.value for variable in variables), *inputs]
        weights = torch.ones_like(output) if weights is None else weights
        gradients = [None] * len(wanted)
        if wanted and output.requires_grad:
            gradients = torch.autograd.grad(
                output, wanted, weights, retain_graph=True, allow_unused=True
            )
        return list(gradients[: len(variables)]), list(gradients[len(variables) :])

    return outputs, [functools.partial(pull, *target) for target in targets]


def num_replicas():
    """Number of replicas of the active `tf.distribute` strategy; 1 without one, on JAX and PyTorch.

    On JAX a model under `keras.distribution` is one program over the whole batch, so that its sums
    are sums over all devices already.
    """
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def sum_over_replicas(tensors):
    """Sums tensors over the replicas of a `tf.distribute` strategy.

    Call it outside of conditionals: every replica must reach it. With one replica the tensors come
    back as they are.

    Args:
        tensors: a tensor or a list of tensors, the same shapes on each replica.

    Returns:
        The sums, in the structure of `tensors`.
    """
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce("SUM", tensors)


def mean_over_replicas(total, count):
    """Divides a sum by a count, each over all replicas; 0 where nothing was counted.

    The value is the same on every replica. Its gradient is that of the replica's own sum, times the
    number of replicas: Keras divides by this number what layers add, and sums the gradients. So
    shares of a batch that differ, or are empty, weigh as they do in one process.

    Args:
        total: float tensor, this replica's sum.
        count: float scalar, what it was summed over.

    Returns:
        Float tensor, the shape of `total`.
    """
    replicas = num_replicas()
    if replicas == 1:
        return keras.ops.divide_no_nan(total, count)
    fixed, count = sum_over_replicas([keras.ops.stop_gradient(total), count])
    own = replicas * keras.ops.divide_no_nan(total, count)
    mean = keras.ops.divide_no_nan(fixed, count)
    return own + keras.ops.stop_gradient(mean - own)


def join_replicas(tensor):
    """Joins what replicas hold along the first axis, in their order; without a gradient.

    Args:
        tensor: `(n, ...)`, of another n on each replica, or none.

    Returns:
        The same on each replica.
    """
    context = _replica_context()
    tensor = keras.ops.stop_gradient(tensor)
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    joined = context.all_gather(tensor, axis=0)
    return keras.ops.reshape(joined, (-1, *tensor.shape[1:]))  # which says again what is known


def replica_number():
    """Number of this replica, from 0; 0 where there are none."""
    context = _replica_context()
    if context is None:
        return 0
    import tensorflow as tf

    # A constant where each replica traces a program of its own; else one program serves all.
    number = tf.get_static_value(context.replica_id_in_sync_group)
    return 0 if number is None else int(number)


def take_from_first_replica(tensors):
    """Gives every replica the values that the first one holds, as for a start drawn from its data.

    Args:
        tensors: a float tensor or a list of float tensors, the same shapes on each replica.

    Returns:
        The first replica's values, in the structure of `tensors`.
    """
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    is_first = keras.ops.equal(context.replica_id_in_sync_group, 0)
    # `where`, not a product: a NaN on another replica must not spread.
    masked = keras.tree.map_structure(
        lambda x: keras.ops.where(is_first, x, keras.ops.zeros_like(x)), tensors
    )
    return context.all_reduce("SUM", masked)


def _replica_context():
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    # None in cross-replica context, where a strategy's variables are made but no step runs.
    return tf.distribute.get_replica_context()


def _variables(owners):
    return [variable for owner in owners for variable in owner.variables]


def _as_tensor(value):
    if isinstance(value, bool) or not isinstance(value, numbers.Number | np.ndarray):
        return value
    return keras.ops.convert_to_tensor(value)
