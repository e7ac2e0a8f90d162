"""The cached sampler of PixelCNN: every activation is computed once.

Calling the whole network once per code costs as many forward passes as there are codes. Here every
masked kernel is cut along the axes of the grid instead. In 2D, what a kernel sees in the rows above
is complete when a row starts, so it is computed for the whole row in one product; what is left for
each code is the part of the kernel to the left and 1×1 products on `(batch, channels)`. In 3D there
is one more level: planes, then rows, then codes. Products of the same weights with the same
numbers as in the forward pass are summed in another order, so logits agree to rounding.

The recursion over levels is the same for both forms of the network; `_Gated` and `_Plain` say what
is computed when a slice starts and for one code. Slices are kept as channels: the cache of a layer
at a level is its last k // 2 slices, concatenated along the last axis, oldest first, and zero
before the grid starts, exactly as zero padding is.

Attention sees all earlier codes of the grid, whatever their level: its keys and values are kept in
memories of one place for each code, which go through all loops.

Everything runs in float32 and within one compiled function; weights are read inside of it, so a
change of weights needs no new compilation.
"""

import itertools
import math

from keras import ops

# The smallest float32 of full precision.
SMALLEST = 1.1754944e-38


def gate(hidden):
    """Return tanh(a) * sigmoid(b) `(..., channels / 2)`, a and b the halves of `hidden`."""
    half = hidden.shape[-1] // 2
    return ops.tanh(hidden[..., :half]) * ops.sigmoid(hidden[..., half:])


class Chooser:
    """Takes one code for each row of logits: argmax(filtered logits / temperature + noise).

    Args:
        temperature: positive scalar tensor; not used where `greedy`.
        top_p: scalar tensor in (0, 1]; not used unless `nucleus`.
        top_k: number of codes to keep, or None.
        nucleus: whether to keep only the smallest set of codes that reaches `top_p`.
        greedy: whether the most probable code is taken, without noise.
    """

    def __init__(self, temperature, top_p, top_k=None, nucleus=False, greedy=False):
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.nucleus = nucleus
        self.greedy = greedy

    def __call__(self, logits, noise, known):
        """Choose codes.

        Args:
            logits: float32 `(batch, num_codes)`.
            noise: float32 Gumbel noise `(batch, num_codes)`.
            known: int32 `(batch,)`, a code to be taken as it is, or -1.

        Returns:
            int32 `(batch,)`.
        """
        if not self.greedy:
            logits = self.filtered(logits) + noise
        return ops.where(known >= 0, known, ops.cast(ops.argmax(logits, axis=-1), "int32"))

    def filtered(self, logits):
        """Return logits over the temperature, minus infinity where a filter forbids the code."""
        # The largest is 0 whatever the temperature, and divides to no infinity; numbers below the
        # smallest normal one count as zero on some processors.
        logits = logits - ops.max(logits, axis=-1, keepdims=True)
        logits = logits / ops.maximum(self.temperature, SMALLEST)
        if self.top_k is None and not self.nucleus:
            return logits
        largest = ops.top_k(logits, self.top_k or logits.shape[-1], sorted=True)[0]
        lowest = largest[..., -1:]
        if self.nucleus:
            p = ops.exp(largest - largest[..., :1])
            p = p / ops.sum(p, axis=-1, keepdims=True)
            before = ops.cumsum(p, axis=-1) - p
            top_p = ops.maximum(self.top_p, SMALLEST)  # the most probable code always stays
            lowest = ops.min(ops.where(before < top_p, largest, math.inf), -1, keepdims=True)
        return ops.where(logits >= lowest, logits, -math.inf)


def decode(model, choose, noise, known, labels=None, plan=None, trace=False):
    """Draw a batch of code grids.

    Args:
        model: a `PixelCNN`.
        choose: a `Chooser`.
        noise: float32 `(batch, positions, num_codes)`, or `(batch, positions, 1)` if unused.
        known: int32 `(batch, positions)`: codes to be taken as they are, or -1.
        labels: int32 `(batch,)`, or None.
        plan: float `(batch, *plan_shape)`, or None.
        trace: whether to return the activations too.

    Returns:
        Codes int32 `(batch, *grid)`, and with `trace` what `PixelCNN.features` lists, concatenated
        along the last axis: float32 `(batch, *grid, sum of channels)`; otherwise None.
    """
    network = (_Gated if model.gated else _Plain)(model, labels, plan, known.shape[0])
    recursion = _Recursion(network, choose, noise, known, trace)
    first = network.bias(0, network.biases[0])
    codes, _, traced, _ = recursion.level(0, 0, first, network.biases, network.memories())
    return codes, traced


class _Recursion:
    """The loops over planes, rows and codes, one inside the other."""

    def __init__(self, network, choose, noise, known, trace):
        self.network = network
        self.choose = choose
        self.noise = noise
        self.known = known
        self.trace = trace
        self.batch = known.shape[0]

    def level(self, axis, offset, inherited, biases, memories):
        """Draw one slice of the grid, along `axis` and all later axes.

        Args:
            axis: the axis that this level's loop walks along.
            offset: number of the slice, counted over all slices of its kind.
            inherited: `(size, batch, *rest, channels)`: what earlier slices of earlier axes
                contribute to this slice, all constant terms included.
            biases: for each axis its constant terms within this slice, `(size, *rest, 1 or batch,
                channels)`.
            memories: keys and values of each attention at all codes so far, see
                `_Network.memories`.

        Returns:
            Codes `(batch, size, *rest)`, what the network stores of every code `(batch,
            size, *rest, stored)` or None, the trace or None, and the memories.
        """
        if axis == self.network.rank - 1:
            return self.codes(offset, inherited, memories)
        network = self.network
        size, *rest = network.grid[axis:]
        buffers = [ops.zeros((size, self.batch, *rest), "int32")]
        if network.stored:
            buffers.append(ops.zeros((size, self.batch, *rest, network.stored)))
        if self.trace:
            buffers.append(ops.zeros((size, self.batch, *rest, network.traced)))
        caches = network.slice_caches(axis, self.batch)

        def body(index, buffers, caches, memories):
            history, *caches = caches
            handed, caches = network.slice_step(axis, history, caches, _at(inherited, index))
            inner = [None if bias is None else _at(bias, index) for bias in biases]
            handed = _leading(handed)  # (next size, batch, *rest, channels)
            if inner[axis + 1] is not None:
                handed = handed + network.bias(axis + 1, inner[axis + 1])
            *drawn, memories = self.level(axis + 1, offset * size + index, handed, inner, memories)
            codes, stored, _ = drawn
            history = _pushed(history, network.embed(codes))
            caches = network.slice_update(caches, stored)
            return _filled(buffers, drawn, index), [history, *caches], memories

        return self._loop(size, body, buffers, caches, memories)

    def codes(self, offset, inherited, memories):
        """Draw the codes along the last axis, one after the other; see `level`."""
        network = self.network
        size = network.grid[-1]
        buffers = [ops.zeros((size, self.batch), "int32")]
        if network.stored:
            buffers.append(ops.zeros((size, self.batch, network.stored)))
        if self.trace:
            buffers.append(ops.zeros((size, self.batch, network.traced)))
        caches = network.code_caches(self.batch)

        def body(index, buffers, caches, memories):
            history, *caches = caches
            position = offset * size + index
            logits, caches, stored, traced, memories = network.code_step(
                history, caches, _at(inherited, index), memories, position, self.trace
            )
            code = self.choose(logits, _column(self.noise, position), _column(self.known, position))
            history = _pushed(history, code[:, None])
            buffers = _filled(buffers, (code, stored, traced), index)
            return buffers, [history, *caches], memories

        return self._loop(size, body, buffers, caches, memories)

    def _loop(self, size, body, *parts):
        """Run `body(index, *parts)` for each index below `size`; it returns the parts anew.

        Returns:
            What `level` does; the buffers are turned so that the batch comes first.
        """
        ends = list(itertools.accumulate(map(len, parts)))

        def step(index, *state):
            ranges = zip([0, *ends], ends, strict=False)
            parts = body(index, *(list(state[start:stop]) for start, stop in ranges))
            return (index + 1, *itertools.chain(*parts))

        flat = itertools.chain(*parts)
        _, *state = ops.while_loop(lambda index, *_: index < size, step, (0, *flat))
        buffers = [ops.swapaxes(buffer, 0, 1) for buffer in state[: ends[0]]]
        codes = buffers.pop(0)
        stored = buffers.pop(0) if self.network.stored else None
        return codes, stored, buffers.pop(0) if self.trace else None, state[ends[1] :]


class _Network:
    """What both forms share: embedded codes, constant terms, the output layer."""

    def __init__(self, model, labels, plan, batch):
        self.model = model
        self.batch = batch
        self.filters = model.filters
        self.traced = model.filters * (model.num_blocks + 1) + model.num_codes
        self.grid = model.grid_shape
        self.rank = model.rank
        self.reach = model.kernel_size // 2
        self.first_reach = model.first_kernel_size // 2
        if model.code_embedding is None:
            vectors = ops.eye(model.num_codes)
        else:
            vectors = _weights(model.code_embedding.embeddings)
        # The constant channel that tells data from padding, and a last row for padding itself.
        vectors = ops.concatenate([vectors, ops.ones((model.num_codes, 1))], axis=-1)
        self.table = ops.pad(vectors, [(0, 1), (0, 0)])  # (num_codes + 1, channels)
        # What is known of each place, `(*grid, 1 or batch, context_dim)`.
        self.places = model.places(plan)
        if self.places is not None:
            self.places = ops.moveaxis(ops.cast(self.places, "float32"), 0, -2)
        self.label = None
        if labels is not None:
            self.label = ops.take(_weights(model.label_embedding.embeddings), labels, axis=0)
        self.logits_dense = _dense(model.logits_dense)

    def embed(self, codes):
        """Return the input channels `(..., channels)` of int codes `(...)`."""
        return ops.take(self.table, codes, axis=0)

    def slice_caches(self, axis, batch):
        """Caches `(batch, *rest, channels)` at the start of a level: codes, then each block."""
        rest = self.grid[axis + 1 :]
        caches = [ops.zeros((batch, *rest, self.first_reach * self.table.shape[1]))]
        blocks = self.model.num_blocks
        return caches + [ops.zeros((batch, *rest, self.reach * self.filters))] * blocks

    def code_caches(self, batch):
        """Caches `(batch, channels)` at the start of a line: the last codes, one of each block."""
        caches = [ops.full((batch, self.first_reach), self.table.shape[0] - 1, dtype="int32")]
        return caches + [ops.zeros((batch, self.reach * self.filters))] * self.model.num_blocks

    def memories(self):
        """Keys and values `(positions, batch, channels)` of each attention, before any code."""
        return []

    def constants(self, layers):
        """Return the constant terms of several layers, concatenated along the channels.

        Args:
            layers: pairs of a convolution or dense layer and its context projection.

        Returns:
            `(*grid, 1 or batch, channels)`, and for the class `(batch, channels)` or None.
        """
        by_place, by_label = [], []
        for layer, context in layers:
            value = _weights(layer.bias)
            if context.position_dense is not None:
                kernel = _weights(context.position_dense.kernel)
                value = value + ops.matmul(self.places, kernel)
            grids = 1 if self.places is None else self.places.shape[-2]
            by_place.append(ops.broadcast_to(value, (*self.grid, grids, value.shape[-1])))
            if self.label is not None:
                by_label.append(ops.matmul(self.label, _weights(context.label_dense.kernel)))
        label = ops.concatenate(by_label, axis=-1) if by_label else None
        return ops.concatenate(by_place, axis=-1), label

    def bias(self, axis, by_place):
        """Return constant terms, from `(size, *rest, 1 or batch, channels)`, for the whole batch.

        The result is `(size, batch, *rest, channels)`.
        """
        by_place = ops.moveaxis(by_place, -2, 1)
        label = self.by_label[axis]
        if label is None:
            shape = (by_place.shape[0], self.batch, *by_place.shape[2:])
            return ops.broadcast_to(by_place, shape)
        ones = (1,) * (self.rank - axis - 1)
        return by_place + ops.reshape(label, (1, label.shape[0], *ones, label.shape[-1]))

    def first_tables(self, kernel):
        """Multiply the input table into a kernel `(reach, channels, filters)`.

        Returns:
            `(reach * (num_codes + 1), filters)`: the contribution of each code at each distance.
        """
        tables = ops.matmul(self.table[None], kernel)
        return ops.reshape(tables, (-1, kernel.shape[-1]))

    def look_up(self, history):
        """Sum the first convolution's contributions of the last codes `(batch, reach)`."""
        rows = self.table.shape[0]
        shifts = [step * rows for step in range(self.first_reach)]
        return ops.sum(ops.take(self.tables, history + ops.array(shifts, "int32"), axis=0), axis=1)


class _Gated(_Network):
    """The gated form: stack s runs at level s and hands its gated output to stack s + 1."""

    stored = 0

    def __init__(self, model, labels, plan, batch):
        super().__init__(model, labels, plan, batch)
        # Those that stand before a block, by its number.
        self.before = {
            index: number
            for number, index in enumerate(
                index for index, each in enumerate(model.attentions) if each is not None
            )
        }
        self.attentions = [model.attentions[index] for index in self.before]
        self.attention_weights = [
            (_weights(each.input_dense.kernel), _dense(each.output_dense))
            for each in self.attentions
        ]
        self.biases, self.by_label = [], []
        for axis in range(self.rank):
            layers = [(model.first_convolutions[axis], model.first_contexts[axis])]
            layers += [(block.convolutions[axis], block.contexts[axis]) for block in model.blocks]
            if axis == self.rank - 1:
                layers += [(each.input_dense, each.context) for each in self.attentions]
            place, label = self.constants(layers)
            self.biases.append(place)
            self.by_label.append(label)
        self.first = [
            _slice_kernel(_weights(convolution.kernel), axis)
            for axis, convolution in enumerate(model.first_convolutions[:-1])
        ]
        kernel = _weights(model.first_convolutions[-1].kernel)
        self.tables = self.first_tables(ops.reshape(kernel, kernel.shape[-3:]))
        self.kernels = [
            [
                _slice_kernel(_weights(block.convolutions[axis].kernel), axis)
                for block in model.blocks
            ]
            for axis in range(self.rank)
        ]
        self.carries = [
            [_weights(block.carries[axis].kernel) for block in model.blocks]
            for axis in range(self.rank - 1)
        ]
        self.outputs = [_dense(block.output_dense) for block in model.blocks]
        self.head = _dense(model.head)

    def memories(self):
        """Keys and values `(positions, batch, channels)` of each attention, before any code."""
        positions = math.prod(self.grid)
        return [ops.zeros((positions, self.batch, 2 * each.width)) for each in self.attentions]

    def _attended(self, number, features, term, memory, position):
        """Return features `(batch, filters)` after an attention, and its memory of this code too.

        Args:
            number: which of the attentions.
            features: `(batch, filters)` of this code.
            term: `(batch, 3 width)`, constant terms of its input.
            memory: `(positions, batch, 2 width)`.
            position: number of the code in raster order.
        """
        attention = self.attentions[number]
        kernel, output = self.attention_weights[number]
        projected = term + ops.matmul(features, kernel)
        query, pair = projected[:, : attention.width], projected[:, attention.width :]
        memory = ops.slice_update(memory, (position, 0, 0), pair[None])
        seen = ops.arange(memory.shape[0], dtype="int32") <= position
        keys, values = ops.split(ops.swapaxes(memory, 0, 1), 2, axis=-1)
        attended = attention.attend(query[:, None], keys, values, seen[None])[:, 0]
        return features + _apply(attended, output), memory

    def slice_step(self, axis, history, caches, inherited):
        """Run stack `axis` on one slice `(batch, *rest)`; all its inputs are known."""
        first = inherited[..., : self.filters]
        inherited = _pieces(inherited[..., self.filters :], 2 * self.filters, len(caches))
        features = first + ops.matmul(
            _patches(history, self.model.first_kernel_size), self.first[axis]
        )
        handed = [ops.zeros_like(features)]  # the next stack's first layer takes nothing
        new_caches = []
        for cache, kernel, carry, term in zip(
            caches, self.kernels[axis], self.carries[axis], inherited, strict=True
        ):
            seen = ops.concatenate([cache, features], axis=-1)
            new_caches.append(seen[..., self.filters :])
            hidden = term + ops.matmul(_patches(seen, self.model.kernel_size), kernel)
            carried = gate(hidden)
            handed.append(ops.matmul(carried, carry))
            features = features + carried
        if axis == self.rank - 2:  # attention is part of the last stack, and takes nothing either
            handed += [
                ops.zeros((*features.shape[:-1], 3 * each.width)) for each in self.attentions
            ]
        return ops.concatenate(handed, axis=-1), new_caches

    def slice_update(self, caches, stored):
        """The step has made the new caches already."""
        return caches

    def code_step(self, history, caches, inherited, memories, position, trace):
        """Run the last stack on one code; return logits, caches, None, trace and memories."""
        first = inherited[..., : self.filters]
        terms = _pieces(inherited[..., self.filters :], 2 * self.filters, len(caches))
        to_attention = inherited[..., self.filters * (1 + 2 * len(caches)) :]
        features = first + self.look_up(history)  # (batch, filters)
        trail = [features]
        skip = None
        new_caches, memories = [], list(memories)
        for index, (cache, kernel, (weights, bias), term) in enumerate(
            zip(caches, self.kernels[-1], self.outputs, terms, strict=True)
        ):
            if index in self.before:
                number = self.before[index]
                width = 3 * self.attentions[number].width
                features, memories[number] = self._attended(
                    number,
                    features,
                    to_attention[:, number * width : (number + 1) * width],
                    memories[number],
                    position,
                )
            seen = ops.concatenate([cache, features], axis=-1)
            new_caches.append(seen[:, self.filters :])
            outputs = ops.matmul(gate(term + ops.matmul(seen, kernel)), weights) + bias
            features = features + outputs[:, : self.filters]
            added = outputs[:, self.filters :]
            skip = added if skip is None else skip + added
            trail.append(features)
        hidden = ops.relu(_apply(ops.relu(skip), self.head))
        logits = _apply(hidden, self.logits_dense)
        traced = ops.concatenate([*trail, logits], axis=-1) if trace else None
        return logits, new_caches, None, traced, memories


class _Plain(_Network):
    """The plain form: one chain, each masked kernel cut into one part for each axis."""

    def __init__(self, model, labels, plan, batch):
        super().__init__(model, labels, plan, batch)
        self.half = model.blocks[0].convolution.filters
        self.stored = model.filters * model.num_blocks
        layers = [(model.first_convolutions[0], model.first_contexts[0])]
        layers += [(block.convolution, block.context) for block in model.blocks]
        place, label = self.constants(layers)
        # All constant terms enter where a code is made; the other levels have none.
        self.biases = [None] * (self.rank - 1) + [place]
        self.by_label = [None] * (self.rank - 1) + [label]
        kernels = [_weights(convolution.masked_kernel()) for convolution, _ in layers]
        # Part s of a kernel: zero offset on the axes before s, negative offset on s.
        self.parts = [
            [_slice_kernel(_part(kernel, axis), axis) for kernel in kernels]
            for axis in range(self.rank - 1)
        ]
        first, *others = kernels
        kernel = _part(first, self.rank - 1)
        self.tables = self.first_tables(ops.reshape(kernel, kernel.shape[-3:]))
        self.lines = [
            _slice_kernel(_part(kernel, self.rank - 1, current=True), self.rank - 1)
            for kernel in others
        ]
        self.dense = [
            (_dense(block.input_dense), _dense(block.output_dense)) for block in model.blocks
        ]
        self.betweens = [_dense(between) for between in model.betweens]

    def bias(self, axis, by_place):
        """Return constant terms with a batch axis, or zeros at the levels that have none."""
        if by_place is not None:
            return super().bias(axis, by_place)
        channels = self.filters + self.half * len(self.dense)
        return ops.zeros((self.grid[axis], self.batch, *self.grid[axis + 1 :], channels))

    def slice_step(self, axis, history, caches, inherited):
        """Add what the slices before this one contribute to every masked convolution."""
        sizes = [self.model.first_kernel_size] + [self.model.kernel_size] * len(caches)
        parts = [
            ops.matmul(_patches(cache, size), kernel)
            if cache.shape[-1]
            else ops.zeros((*cache.shape[:-1], kernel.shape[-1]))
            for cache, size, kernel in zip([history, *caches], sizes, self.parts[axis], strict=True)
        ]
        return inherited + ops.concatenate(parts, axis=-1), caches

    def slice_update(self, caches, stored):
        """Append the convolutions' inputs in the slice that has just been drawn."""
        pieces = _pieces(stored, self.filters, len(caches))
        return [_pushed(cache, piece) for cache, piece in zip(caches, pieces, strict=True)]

    def code_step(self, history, caches, inherited, memories, position, trace):
        """Run the chain on one code; return logits, caches, the masked inputs, trace, memories."""
        features = ops.relu(inherited[:, : self.filters] + self.look_up(history))
        inherited = _pieces(inherited[:, self.filters :], self.half, len(caches))
        trail, stored, new_caches = [features], [], []
        for index, (cache, kernel, (before, after), term) in enumerate(
            zip(caches, self.lines, self.dense, inherited, strict=True)
        ):
            hidden = ops.relu(_apply(features, before))
            stored.append(hidden)
            seen = ops.concatenate([cache, hidden], axis=-1)
            new_caches.append(seen[:, self.filters :])
            hidden = ops.relu(term + ops.matmul(seen, kernel))
            features = features + ops.relu(_apply(hidden, after))
            if index < len(self.betweens):
                features = ops.relu(_apply(features, self.betweens[index]))
            trail.append(features)
        logits = _apply(features, self.logits_dense)
        traced = ops.concatenate([*trail, logits], axis=-1) if trace else None
        return logits, new_caches, ops.concatenate(stored, axis=-1), traced, memories


def _weights(variable):
    return ops.cast(ops.convert_to_tensor(variable), "float32")


def _dense(layer):
    """Return kernel and bias of a dense layer."""
    return _weights(layer.kernel), _weights(layer.bias)


def _apply(inputs, dense):
    return ops.matmul(inputs, dense[0]) + dense[1]


def _part(kernel, axis, current=False):
    """Cut from a full kernel the offsets that are zero before `axis` and negative on it."""
    centres = [size // 2 for size in kernel.shape[:-2]]
    window = [slice(centre, centre + 1) for centre in centres[:axis]]
    return kernel[(*window, slice(0, centres[axis] + int(current)))]


def _slice_kernel(kernel, axis):
    """Make the matrix that goes with `_patches` of slices concatenated along the channels.

    Args:
        kernel: `(1, ..., slices, k, ..., channels, filters)`, with `axis` leading ones.
        axis: the axis of the slices.

    Returns:
        `(k * ... * slices * channels, filters)`.
    """
    kernel = ops.reshape(kernel, kernel.shape[axis:])  # (slices, k, ..., channels, filters)
    kernel = ops.moveaxis(kernel, 0, -3)
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


def _patches(inputs, size):
    """Concatenate the neighbourhood of every position along the channels, zero outside.

    One large product then does the work of a convolution: measurably faster than many small ones.

    Args:
        inputs: `(batch, *rest, channels)`.
        size: odd extent of the neighbourhood on every axis of `rest`.

    Returns:
        `(batch, *rest, size ** len(rest) * channels)`.
    """
    rest = inputs.shape[1:-1]
    half = size // 2
    padded = ops.pad(inputs, [(0, 0), *[(half, half)] * len(rest), (0, 0)])
    views = []
    for offsets in itertools.product(range(size), repeat=len(rest)):
        window = tuple(
            slice(offset, offset + extent) for offset, extent in zip(offsets, rest, strict=True)
        )
        views.append(padded[(slice(None), *window)])
    return ops.concatenate(views, axis=-1) if len(views) > 1 else views[0]


def _pieces(tensor, channels, count):
    """Split the last axis into `count` pieces of `channels`."""
    return [tensor[..., index * channels : (index + 1) * channels] for index in range(count)]


def _pushed(cache, newest):
    """Drop the oldest channels of a cache and append the newest."""
    if cache.shape[-1] == 0:
        return cache
    return ops.concatenate([cache[..., newest.shape[-1] :], newest], axis=-1)


def _leading(tensor):
    """Move the first grid axis before the batch: `(batch, size, ...)` to `(size, batch, ...)`."""
    return ops.swapaxes(tensor, 0, 1)


def _at(tensor, index):
    """Return `tensor[index]` for an index that is a tensor."""
    start = (index,) + (0,) * (len(tensor.shape) - 1)
    return ops.squeeze(ops.slice(tensor, start, (1, *tensor.shape[1:])), 0)


def _column(tensor, index):
    """Return `tensor[:, index]` for an index that is a tensor."""
    start = (0, index) + (0,) * (len(tensor.shape) - 2)
    shape = (tensor.shape[0], 1, *tensor.shape[2:])
    return ops.squeeze(ops.slice(tensor, start, shape), 1)


def _filled(buffers, parts, index):
    """Return `buffers` with each of `parts` that is not None at `index` of its first axis."""
    return [
        ops.slice_update(buffer, (index,) + (0,) * (len(buffer.shape) - 1), part[None])
        for buffer, part in zip(buffers, [p for p in parts if p is not None], strict=True)
    ]
