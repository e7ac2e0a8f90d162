"""The one place that knows which Keras backend runs: compiled functions and sums over replicas.

TensorFlow and JAX are imported on use, so that layers and models import where only one of the two
is installed.
"""

import functools
import numbers

import keras
import numpy as np


def compile_function(function, owner=None, static_argnames=()):
    """Compiles an inference function of layers or models once per input shape.

    On TensorFlow this is `tf.function(reduce_retracing=True)`, on JAX `jax.jit`. A jitted function
    that closes over a model keeps the weights of its first call as constants; therefore the
    variables of `owner` are passed in afresh at every call, and training after the first call is
    seen. On JAX, updates of variables within `function` are dropped: compile only functions that
    return all they compute.

    Arrays and plain numbers become tensors, so that another temperature does not trace again.

    Args:
        function: callable of tensors that uses `keras.ops` only.
        owner: a Keras layer or model, or a list of them, whose weights `function` reads. They must
            be built at the first call.
        static_argnames: names of arguments that are constants of the compiled program (sizes,
            flags, strings): pass these by keyword. Every new value traces again.

    Returns:
        A callable with the arguments of `function`; it returns backend tensors.
    """
    static = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(function, reduce_retracing=True, autograph=False)

        @functools.wraps(function)
        def call_tensorflow(*args, **kwargs):
            kwargs = {
                name: value if name in static else _as_tensor(value)
                for name, value in kwargs.items()
            }
            return compiled(*map(_as_tensor, args), **kwargs)

        return call_tensorflow
    if keras.backend.backend() == "jax":
        import jax

        owners = [] if owner is None else owner if isinstance(owner, list | tuple) else [owner]

        @functools.partial(jax.jit, static_argnames=static)
        def stateless(values, /, *args, **kwargs):
            mapping = list(zip(_variables(owners), values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return function(*args, **kwargs)

        @functools.wraps(function)
        def call_jax(*args, **kwargs):
            return stateless([variable.value for variable in _variables(owners)], *args, **kwargs)

        return call_jax
    raise NotImplementedError(
        "brainvq runs on the TensorFlow and JAX backends of Keras. "
        f"Received: backend={keras.backend.backend()!r}"
    )


def num_replicas():
    """Number of replicas of the active `tf.distribute` strategy; 1 without one, and on JAX.

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
    kept = keras.tree.map_structure(
        lambda x: keras.ops.where(is_first, x, keras.ops.zeros_like(x)), tensors
    )
    return context.all_reduce("SUM", kept)


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
