"""What `bench.py` compares: each side of a comparison as a function that makes a `Job`.

Nothing is imported before a side is made: each runs in a process of its own. Sides of one
comparison read arrays of the same seed, and networks are the same layer by layer where the text of
the comparison does not say otherwise.
"""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Job:
    """A piece of work that is timed.

    Attributes:
        call: function without arguments; returns when the work is done.
        work: units of the comparison that a call does.
        flops: float operations of a call in products of matrices and convolutions; None where
            they are not what the work consists of.
        weights: trainable numbers of the network, or None.
    """

    call: Callable
    work: float
    flops: float | None = None
    weights: int | None = None


def noise(*shape):
    """Standard normal float32 numbers, the same at each call."""
    return np.random.default_rng(0).standard_normal(shape, dtype="float32")


# The machine.


def matmul(size=2048):
    """A product of two float32 matrices, as NumPy's library of linear algebra does it."""
    a, b = noise(size, size), noise(size, size)
    return Job(lambda: a @ b, 2 * size**3, 2 * size**3)


def copy(megabytes=256):
    """A copy from memory to memory; bytes count once."""
    source = np.ones(megabytes * 2**20, "uint8")
    target = np.empty_like(source)
    return Job(lambda: np.copyto(target, source), source.nbytes)


def matmul_jax(size=8192):
    """The same on the device of JAX, in the precision that it takes by itself."""
    import jax

    a, b = (jax.numpy.asarray(noise(size, size)) for _ in range(2))
    product = jax.jit(jax.numpy.matmul)
    return Job(lambda: product(a, b).block_until_ready(), 2 * size**3, 2 * size**3)


def copy_jax(megabytes=1024):
    """A copy from the device's memory to itself; bytes count once."""
    import jax

    source = jax.numpy.ones(megabytes * 2**18, "float32")
    copied = jax.jit(jax.numpy.copy)
    return Job(lambda: copied(source).block_until_ready(), source.nbytes)


# Training a VQ-VAE: strided convolutions with ReLU, a 3x3 one to the codes, and the way back.


def train_brainvq(shape, filters, dim, codes, batch):
    """A step of `brainvq.Autoencoder`."""
    import keras

    import brainvq
    from brainvq.models.conv_networks import CONVOLUTIONS, TRANSPOSED

    convolution, transposed = (kinds[len(shape)] for kinds in (CONVOLUTIONS, TRANSPOSED))
    options = {"strides": 2, "padding": "same"}
    x = image = keras.Input((*shape, 1))
    for width in filters:
        x = convolution(width, 3, activation="relu", **options)(x)
    encoder = keras.Model(image, convolution(dim, 3, padding="same")(x))
    z = keras.Input(encoder.output_shape[1:])
    x = convolution(filters[-1], 3, padding="same")(z)
    for width in reversed(filters[:-1]):
        x = transposed(width, 3, activation="relu", **options)(x)
    decoder = keras.Model(z, transposed(1, 3, **options)(x))
    model = brainvq.Autoencoder(encoder, brainvq.EMAVectorQuantizer(codes), decoder)
    model.compile(keras.optimizers.Adam(1e-4))
    images = keras.ops.convert_to_tensor(noise(batch, *shape, 1))
    flops = 3 * batch * sum(map(forward_flops, (encoder, decoder)))
    weights = encoder.count_params() + decoder.count_params()
    return Job(lambda: model.train_on_batch(images), batch, flops, weights)


def forward_flops(network):
    """Float operations of the convolutions of a Keras network for one sample."""
    total = 0
    for layer in network.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            shapes = [tensor.shape[1:-1] for tensor in (layer.input, layer.output)]
            total += 2 * np.prod(kernel.shape) * min(map(np.prod, shapes))
    return float(total)


def monai_vqvae(shape, filters, dim, codes, **options):
    """MONAI's `VQVAE`; without `options` the network of `train_brainvq`."""
    from monai.networks.nets import VQVAE

    levels = len(filters)
    settings = {
        "num_res_layers": 0,
        "num_res_channels": filters,
        "downsample_parameters": ((2, 3, 1, 1),) * levels,
        "upsample_parameters": ((2, 3, 1, 1, 1),) * levels,
        "decay": 0.99,
    }
    return VQVAE(
        len(shape), 1, 1, filters, num_embeddings=codes, embedding_dim=dim, **(settings | options)
    )


def train_monai(shape, filters, dim, codes, batch):
    """A step of MONAI's `VQVAE`, as its tutorials train it: Adam, one loss and one backward."""
    model = monai_vqvae(shape, filters, dim, codes)
    step = torch_step(model, torch_tensor(noise(batch, 1, *shape)))
    return Job(step, batch, weights=sum(p.numel() for p in model.parameters() if p.requires_grad))


def torch_tensor(array):
    """An array as a tensor on the device that PyTorch makes its tensors on."""
    import torch

    return torch.from_numpy(array).to(torch.get_default_device())


def torch_step(model, images, rate=1e-4):
    """A function that trains a `VQVAE` of MONAI on images once."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()

    def step(images=images):
        optimizer.zero_grad(set_to_none=True)
        reconstruction, loss = model(images)
        loss = loss + torch.nn.functional.mse_loss(reconstruction, images)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def train_tutorial_brainvq(size, batch):
    """A step of `brainvq.VQVAETrainer` with `conv_encoder`, `conv_decoder` and 16 codes."""
    import keras

    import brainvq

    grid = size // 16
    model = brainvq.VQVAETrainer(
        brainvq.conv_encoder((size, size, 1)),
        brainvq.EMAVectorQuantizer(16),
        brainvq.conv_decoder((grid, grid, 16)),
    )
    model.compile(keras.optimizers.Adam())
    images = keras.ops.convert_to_tensor(noise(batch, size, size, 1))
    flops = 3 * batch * sum(map(forward_flops, (model.encoder, model.decoder)))
    return Job(lambda: model.train_on_batch(images), batch, flops)


def train_tutorial(size, batch):
    """A step of the VQ-VAE of keras.io with the same convolutions."""
    import keras
    import tensorflow as tf
    from tutorial_vqvae import TutorialVQVAE

    model = TutorialVQVAE(1.0, 16, size=size)
    model.compile(keras.optimizers.Adam())
    images = tf.constant(noise(batch, size, size, 1))
    model(images)  # which makes the weights
    model.optimizer.build(model.trainable_variables)
    step = tf.function(lambda: model.train_step(images))
    return Job(lambda: float(step()["loss"]), batch)


# Quantisers, forward and backward.


def quantize_keras(make, shape, flops=None):
    """A training step of a layer of ours, the gradient to its input included."""
    import keras

    if keras.backend.backend() == "jax":
        return quantize_jax(make, shape, flops)
    import tensorflow as tf

    layer, x = make(), tf.constant(noise(*shape))
    layer.build(x.shape)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
            loss = tf.reduce_mean(outputs["quantized"]) + sum(outputs["losses"].values(), 0.0)
        return tape.gradient(loss, x)

    return Job(lambda: step().numpy(), np.prod(shape[:-1]), flops)


def quantize_jax(make, shape, flops):
    """The same on JAX."""
    import jax

    layer, x = make(), jax.numpy.asarray(noise(*shape))
    layer.build(x.shape)

    def loss(x, fixed, state):
        outputs, state = layer.stateless_call(fixed, state, x, training=True)
        return jax.numpy.mean(outputs["quantized"]) + sum(outputs["losses"].values()), state

    step = jax.jit(jax.grad(loss, has_aux=True))
    fixed, state = ([v.value for v in part] for part in (
        layer.trainable_variables, layer.non_trainable_variables
    ))  # fmt: skip
    kept = [state]

    def call():
        gradient, kept[0] = step(x, fixed, kept[0])
        gradient.block_until_ready()

    return Job(call, np.prod(shape[:-1]), flops)


def quantize_torch(layer, shape, first=False):
    """The same of a layer of PyTorch; `first`: channels stand first."""
    x = torch_tensor(noise(*shape))
    x = (x.movedim(-1, 1).contiguous() if first else x).requires_grad_()
    layer.train()

    def step():
        x.grad = None
        quantized, *others = layer(x)
        losses = [other.mean() for other in others if other is not None and other.requires_grad]
        (quantized.mean() + sum(losses)).backward()

    return Job(step, np.prod(shape[:-1]))


def ema_brainvq(shape, codes):
    """`brainvq.EMAVectorQuantizer`."""
    import brainvq

    flops = 2 * np.prod(shape) * codes
    return quantize_keras(lambda: brainvq.EMAVectorQuantizer(codes), shape, flops)


def ema_monai(shape, codes):
    """MONAI's `EMAQuantizer`."""
    from monai.networks.layers.vector_quantizer import EMAQuantizer

    return quantize_torch(EMAQuantizer(len(shape) - 2, codes, shape[-1]), shape, first=True)


def ema_vqp(shape, codes):
    """`VectorQuantize` of vector-quantize-pytorch, whose codebook learns by moving averages."""
    from vector_quantize_pytorch import VectorQuantize

    return quantize_torch(flattened(VectorQuantize(shape[-1], codes, decay=0.99)), shape)


def residual_brainvq(shape, codes, depth):
    """`brainvq.ResidualQuantizer` of moving averages."""
    import brainvq

    def make():
        return brainvq.ResidualQuantizer([brainvq.EMAVectorQuantizer(codes) for _ in range(depth)])

    return quantize_keras(make, shape, 2 * np.prod(shape) * codes * depth)


def residual_vqp(shape, codes, depth):
    """`ResidualVQ` of vector-quantize-pytorch."""
    from vector_quantize_pytorch import ResidualVQ

    layer = ResidualVQ(dim=shape[-1], num_quantizers=depth, codebook_size=codes, decay=0.99)
    return quantize_torch(flattened(layer), shape)


def fsq_brainvq(shape):
    """`brainvq.FiniteScalarQuantizer`."""
    import brainvq

    return quantize_keras(lambda: brainvq.FiniteScalarQuantizer((8, 5, 5, 5)), shape)


def fsq_vqp(shape):
    """`FSQ` of vector-quantize-pytorch."""
    from vector_quantize_pytorch import FSQ

    return quantize_torch(flattened(FSQ([8, 5, 5, 5])), shape)


def flattened(layer):
    """The layer for vectors `(batch, ..., dim)`, where its own takes `(batch, n, dim)`."""
    import torch

    class Flattened(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x.flatten(1, -2))

    return Flattened()


# Drawing codes.


def draw_brainvq(grid, codes, batch, **options):
    """A batch of code grids from a `brainvq.PixelCNN`."""
    import brainvq

    grid = grid if isinstance(grid, tuple) else (grid, grid)
    prior = brainvq.PixelCNN(grid, codes, **options)
    return Job(
        lambda: prior.sample(batch, seed=0, batch_size=batch), batch, weights=prior.count_params()
    )


def draw_monai(grid, codes, batch, width, depth):
    """The same by MONAI's `VQVAETransformerInferer`, decoding left out."""
    import torch
    from monai.inferers import VQVAETransformerInferer
    from monai.networks.nets import DecoderOnlyTransformer
    from monai.utils.ordering import Ordering

    class Codes:
        num_embeddings = codes

        def decode_samples(self, found):
            return found

    prior = DecoderOnlyTransformer(codes + 1, grid**2, width, depth, max(1, width // 32)).eval()
    order = Ordering("raster_scan", 2, (1, grid, grid))
    start = torch.full((batch, 1), codes)
    inferer = VQVAETransformerInferer()

    def call():
        inferer.sample((grid, grid), start, Codes(), prior, order, verbose=False)

    return Job(call, batch, weights=sum(p.numel() for p in prior.parameters()))


def draw_tutorial(grid, codes, batch):
    """The same by the loop of keras.io: a PixelCNN as there, `predict` once for every code."""
    import keras
    import tensorflow as tf
    from keras import layers

    class Masked(layers.Layer):
        def __init__(self, kind, **options):
            super().__init__()
            self.kind, self.conv = kind, layers.Conv2D(**options)

        def build(self, shape):
            self.conv.build(shape)
            rows, columns = self.conv.kernel.shape[:2]
            mask = np.zeros(self.conv.kernel.shape, "float32")
            mask[: rows // 2] = mask[rows // 2, : columns // 2] = 1
            mask[rows // 2, columns // 2] = self.kind == "B"
            self.mask = mask

        def call(self, x):
            self.conv.kernel.assign(self.conv.kernel * self.mask)
            return self.conv(x)

    x = inputs = keras.Input((grid, grid), dtype="int32")
    x = layers.Lambda(lambda found: tf.one_hot(found, codes), output_shape=(grid, grid, codes))(x)
    same = {"padding": "same", "activation": "relu"}
    x = Masked("A", filters=128, kernel_size=7, **same)(x)
    for _ in range(2):
        y = layers.Conv2D(128, 1, activation="relu")(x)
        y = layers.Conv2D(128, 1, activation="relu")(
            Masked("B", filters=64, kernel_size=3, **same)(y)
        )
        x = layers.add([x, y])
    for _ in range(2):
        x = Masked("B", filters=128, kernel_size=1, **same)(x)
    model = keras.Model(inputs, layers.Conv2D(codes, 1)(x))

    def call():
        found = np.zeros((batch, grid, grid), "int32")
        for row in range(grid):
            for column in range(grid):
                logits = model.predict(found, verbose=0)[:, row, column]
                found[:, row, column] = tf.random.categorical(logits, 1)[:, 0].numpy()

    return Job(call, batch, weights=model.count_params())


# Measures.


def ssim_brainvq(size, count):
    """`brainvq.evaluation.similarity.ssim` of images."""
    from brainvq.evaluation.similarity import ssim

    x, y = images(size, count)
    return Job(lambda: ssim(x, y), count)


def ssim_skimage(size, count):
    """`structural_similarity` of scikit-image, one image at a time as it takes them."""
    from skimage.metrics import structural_similarity

    x, y = images(size, count)
    return Job(
        lambda: [structural_similarity(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)],
        count,
    )


def images(size, count):
    """Two stacks of noise in [0, 1] that resemble each other."""
    x = np.random.default_rng(0).random((count, size, size), dtype="float32")
    return x, (0.9 * x + 0.05).astype("float32")


def bundles(count):
    """Two bundles of smooth streamlines `(count, 64, 3)` in units of a brain's half."""
    steps = np.random.default_rng(0).normal(0, 0.02, (2, count, 64, 3))
    return (np.random.default_rng(1).random((2, count, 1, 3)) * 0.1 + steps.cumsum(2)).astype("f4")


def buan_brainvq(count):
    """`brainvq.evaluation.bundles.buan`."""
    from brainvq.evaluation.bundles import buan

    a, b = bundles(count)
    return Job(lambda: buan(a, b), 1)


def buan_dipy(count):
    """dipy's `bundle_shape_similarity` with the same threshold."""
    from dipy.segment.bundles import bundle_shape_similarity

    a, b = (list(bundle) for bundle in bundles(count))

    def call():
        rng = np.random.default_rng(0)
        with contextlib.redirect_stdout(io.StringIO()):
            bundle_shape_similarity(a, b, rng, clust_thr=[0], threshold=0.05)

    return Job(call, 1)


def kmeans_brainvq(count, dim, codes):
    """Ten of Lloyd's iterations as codebooks start with them, `brainvq.layers.quantizer.lloyd`."""
    import brainvq.layers  # noqa: F401 (first: brainvq.backend is a part of it)
    from brainvq.backend import compile_function
    from brainvq.layers.quantizer import lloyd

    vectors = noise(count, dim)
    run = compile_function(lambda vectors, centres: lloyd(vectors, centres, 10))
    return Job(lambda: np.asarray(run(vectors, vectors[:codes])), count, 20 * count * dim * codes)


def kmeans_sklearn(count, dim, codes):
    """The same by scikit-learn's `KMeans`, from the same start."""
    from sklearn.cluster import KMeans

    vectors = noise(count, dim)

    def call():
        KMeans(codes, init=vectors[:codes], n_init=1, max_iter=10, tol=0).fit(vectors)

    return Job(call, count)


# A cohort.


def read_store(slices):
    """1024 slices in random batches of 16 from a store of so many, generated in a sparse file."""
    import tempfile

    from brainvq.training.stream import BatchStream

    # A file of noughts takes no room on disk, and is read through the same pages.
    file = tempfile.TemporaryFile()  # noqa: SIM115
    kept = np.memmap(file, "float16", "w+", shape=(slices, 128, 128, 1))
    stream = BatchStream(lambda rows: kept[rows].astype("f4"), range(slices), 16, shuffle=True)

    def call():
        for number in range(64):
            stream[number % len(stream)]
        stream.epoch += 1

    return Job(call, 1024)
