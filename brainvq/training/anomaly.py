"""What a model of healthy brains and the prior over its codes say about a scan.

A code that the prior finds improbable is a place where the brain does not look as the model has
learned. This gives two kinds of evidence: how improbable each code is (its surprise, in bits), and
how the slice would look if the improbable codes were drawn anew from the prior: its restoration
(Marimont and Tarroni 2021, "Anomaly detection through latent space restoration using vector
quantized variational autoencoders"). Scores for each pixel are made of it by
`brainvq.evaluation.anomaly.score_maps`.
"""

import math

import numpy as np

from brainvq.errors import UserError
from brainvq.progress import progress


class AnomalyDetector:
    """Evidence of a trained autoencoder and its prior about slices of one subject.

    Args:
        model: a `VQVAETrainer` of 2D slices, trained on healthy subjects.
        prior: the `PixelCNN` over its codes, or None: then there is only the reconstruction.
        threshold_bits: codes whose surprise exceeds this are drawn anew. None stands for the
            paper's 5 nats, 7.2 bits; `calibrate` finds the value for a model.
        draws: restorations of each slice. Default 4 (the paper: 15).
        passes: times that restoring goes over a slice, see `restore`. Default 2.
        temperature: of the draws. Default 1.
        top_p: of the draws, see `PixelCNN.sample`. Default 0.9: a restoration should hold what is
            usual, and rare codes are the very thing to be detected.
        sharpness: how much the restorations nearest to the slice count for more; 0 weighs all
            alike. See `restore`. Default 15.
        mirror: whether surprise is averaged with that of the slice flipped left to right. The prior
            reads from the top left, so that a lesion also surprises to the right and below it; the
            flipped slice is read from the other side. Needs a model that saw flipped slices in
            training.
        batch_size: slices per call of the network. Default 32.
        sampling_batch: grids drawn at once. Default 16. Another size gives other draws.
        seed: int; the same seed gives the same restorations.
        progress: whether to show a progress bar.

    Raises:
        UserError: an option is out of its range, or the prior is of other codes than the model's.
    """

    def __init__(
        self,
        model,
        prior=None,
        *,
        threshold_bits=None,
        draws=4,
        passes=2,
        temperature=1.0,
        top_p=0.9,
        sharpness=15.0,
        mirror=False,
        batch_size=32,
        sampling_batch=16,
        seed=0,
        progress=True,
    ):
        for name, value in {
            "draws": draws,
            "passes": passes,
            "batch_size": batch_size,
            "sampling_batch": sampling_batch,
        }.items():
            if int(value) != value or value < 1:
                raise UserError(f"{name}: found {value}; expected a whole number from 1")
        if not 0 <= sharpness < math.inf:
            raise UserError(f"sharpness: found {sharpness}; expected a number from 0")
        if prior is not None and prior.num_codes != model.num_codes:
            raise UserError(
                f"prior: found one over {prior.num_codes} codes; expected {model.num_codes}, the "
                "codes of the model"
            )
        self.model = model
        self.prior = prior
        self.threshold_bits = 5 / math.log(2) if threshold_bits is None else float(threshold_bits)
        self.draws = int(draws)
        self.passes = int(passes)
        self.temperature = temperature
        self.top_p = top_p
        self.sharpness = float(sharpness)
        self.mirror = mirror
        self.batch_size = int(batch_size)
        self.sampling_batch = int(sampling_batch)
        self.seed = seed
        self.progress = progress

    def surprise(self, codes, conditions=None):
        """Bits of each code, −log2 p(code | the codes before it).

        Args:
            codes: int `(n, h, w)`, the size of the prior's grid.
            conditions: dict of arrays with a row for each slice, those that the prior takes: see
                `PixelCNN.code_log_prob`. None for none.

        Returns:
            float32 `(n, h, w)`.

        Raises:
            UserError: there is no prior, or the grid is of another size.
        """
        self._check_grid(codes)
        log_p = self.prior.code_log_prob(codes, batch_size=self.batch_size, **(conditions or {}))
        return -log_p / np.float32(math.log(2))

    def surprise_of(self, slices, conditions=None, codes=None):
        """Bits of each code of slices; averaged over both reading sides with `mirror`.

        Args:
            slices: float `(n, rows, cols, 1)`.
            conditions: dict of arrays with a row for each slice, those that the prior takes: see
                `PixelCNN.code_log_prob`. None for none.
            codes: their codes, if known already.

        Returns:
            float32 `(n, h, w)`.
        """
        if codes is None:
            codes = self.model.encode(slices, batch_size=self.batch_size)
        bits = self.surprise(codes, conditions)
        if self.mirror:
            flipped = self.model.encode(slices[:, :, ::-1], batch_size=self.batch_size)
            given = dict(conditions or {})
            if "plan" in given:
                given["plan"] = given["plan"][:, :, ::-1]
            bits = (bits + self.surprise(flipped, given)[:, :, ::-1]) / 2
        return bits

    def calibrate(self, slices, conditions=None, quantile=0.95):
        """Sets `threshold_bits` to what a share of the codes of healthy slices stays below.

        Args:
            slices: float `(n, rows, cols, 1)`, healthy subjects that training did not see. Slices
                without any signal should be left out, or their sure codes lower the threshold.
            conditions: dict of arrays with a row for each slice, those that the prior takes: see
                `PixelCNN.code_log_prob`. None for none.
            quantile: that share, in (0, 1). Default 0.95: one code in twenty of a healthy slice is
                drawn anew.

        Returns:
            The threshold, in bits.

        Raises:
            UserError: there is no prior, or `quantile` is out of range.
        """
        if not 0 < quantile < 1:
            raise UserError(f"quantile: found {quantile}; expected a number in (0, 1)")
        codes = self.model.encode(slices, batch_size=self.batch_size)
        self.threshold_bits = float(np.quantile(self.surprise(codes, conditions), quantile))
        return self.threshold_bits

    def to_pixels(self, grid, shape):
        """Values of the codes as an image: bilinear between the centres of the cells.

        Args:
            grid: float `(n, h, w)`.
            shape: (rows, cols) of the slices that were encoded. Where that is no multiple of the
                stride, the encoder padded both sides, and the cells reach over the border.

        Returns:
            float32 `(n, rows, cols)`.

        Raises:
            ValueError: a grid of that size does not come from slices of that shape.
        """
        grid = np.asarray(grid, "float32")
        down, across = (
            _interpolation(cells, size, stride)
            for cells, size, stride in zip(grid.shape[1:], shape, self.model.stride, strict=True)
        )
        return np.matmul(np.matmul(down, grid), across.T)

    def restore(self, codes, conditions=None):
        """Draws improbable codes anew, `draws` times.

        The codes are read in raster order. Where the surprise of a code given the codes before it,
        restored ones among them, exceeds the threshold, another code is drawn from the prior in its
        place. So the inside of a lesion, which does not surprise beside its own rim, does so once
        the rim is restored, and what was surprising only because of a lesion before it stays.

        The original reads code by code. Here the surprise of all codes is computed at once and the
        reading is repeated `passes` times with the same noise, each time in the context that the
        last one left. A code is settled once all before it are, so the results come to agree, after
        a few passes nearly everywhere.

        Args:
            codes: int `(n, h, w)`.
            conditions: dict of arrays with a row for each slice, those that the prior takes: see
                `PixelCNN.code_log_prob`. None for none.

        Returns:
            (restored, replaced): int32 `(draws, n, h, w)` and bool of that shape, the places where
            codes were drawn.

        Raises:
            UserError: there is no prior, or the grid is of another size.
        """
        self._check_grid(codes)
        codes = np.asarray(codes, "int32")
        restored = np.repeat(codes[None], self.draws, axis=0)
        replaced = np.zeros(restored.shape, bool)
        improbable = self.surprise(codes, conditions) > self.threshold_bits
        touched = np.flatnonzero(improbable.any(axis=(1, 2)))
        starts = range(0, len(touched), self.sampling_batch)
        total = len(touched) * self.draws
        with progress(total, "restoring", "slice", shown=self.progress, part=True) as bar:
            for start in starts:
                rows = touched[start : start + self.sampling_batch]
                known = {key: part[rows] for key, part in (conditions or {}).items()}
                for draw in range(self.draws):
                    seed = np.random.SeedSequence([self.seed, draw, start])
                    drawn = self._read(codes[rows], improbable[rows], known, seed)
                    restored[draw, rows], replaced[draw, rows] = drawn
                    bar.update(len(rows))
        return restored, replaced

    def evidence(self, slices, conditions=None):
        """All that the model and its prior say about the slices of one subject.

        A restoration X_j counts with the weight of Marimont and Tarroni (2021): softmax over the
        draws j of k / d_j, d_j the mean of |x − X_j| over the slice, so that draws which lost the
        likeness to the slice count less. Their k = 3 is meant for images of unit variance; to be
        free of the unit, k here is `sharpness` times the mean of d_j over the draws.

        Args:
            slices: float `(n, rows, cols, 1)`.
            conditions: dict of arrays with a row for each slice, those that the prior takes: see
                `PixelCNN.code_log_prob`. None for none.

        Returns:
            dict of float32 `(n, rows, cols)`: `reconstruction`; and with a prior `surprise` (bits),
            `restored` (the weighted mean of the restorations), and the weighted means of what is
            `brighter` and what is `darker` in the slice than in the restorations, max(x − X_j, 0)
            and max(X_j − x, 0): their sum is the paper's score. Further `codes` int32 `(n, h, w)`
            and, with a prior, `replaced` float32 `(n, h, w)`: the share of draws that replaced it.

        Raises:
            UserError: the grid of the codes is not that of the prior.
        """
        slices = np.asarray(slices, "float32")
        size = slices.shape[1:3]
        codes = self.model.encode(slices, batch_size=self.batch_size)
        evidence = {"codes": codes, "reconstruction": self._decoded(codes, size)}
        if self.prior is None:
            return evidence
        bits = self.surprise_of(slices, conditions, codes)
        evidence["surprise"] = self.to_pixels(bits, size)
        restored, replaced = self.restore(codes, conditions)
        evidence["replaced"] = replaced.mean(axis=0, dtype="float32")
        for name in ("restored", "brighter", "darker"):
            evidence[name] = np.empty(slices.shape[:3], "float32")
        # A few slices at a time: all draws of a scan at once would fill the memory.
        for start in range(0, len(slices), self.batch_size):
            part = slice(start, start + self.batch_size)
            for name, values in self._weighed(slices[part, ..., 0], restored[:, part]).items():
                evidence[name][part] = values
        return evidence

    def _read(self, codes, improbable, conditions, seed):
        """One draw of a batch: (restored codes, which of them were drawn)."""
        number = int(seed.generate_state(1)[0])
        for index in range(self.passes):
            restored = self.prior.sample(
                len(codes),
                temperature=self.temperature,
                top_p=self.top_p,
                seed=number,
                batch_size=self.sampling_batch,
                known_codes=codes,
                known_mask=~improbable,
                **conditions,
            )
            replaced = improbable
            if index + 1 < self.passes:
                bits = self._surprise_among(codes, restored, conditions)
                improbable = bits > self.threshold_bits
        return restored, replaced

    def _surprise_among(self, codes, context, conditions):
        """Bits of `codes`, each given the codes before it in `context` in place of its own."""
        log_p = self.prior.code_log_prob(
            codes, batch_size=self.sampling_batch, context=context, **conditions
        )
        return -log_p / np.float32(math.log(2))

    def _weighed(self, x, restored):
        """Weighted means over the draws, for a few slices `(m, rows, cols)`."""
        images = np.stack([self._decoded(codes, x.shape[1:]) for codes in restored])
        distance = np.abs(x - images).mean(axis=(2, 3), dtype="float64")  # (draws, m)
        closeness = self.sharpness * distance.mean(axis=0) / np.maximum(distance, 1e-12)
        weight = np.exp(closeness - closeness.max(axis=0))
        weight = (weight / weight.sum(axis=0)).astype("float32")
        return {
            name: np.einsum("jm,jmrc->mrc", weight, values)
            for name, values in (
                ("restored", images),
                ("brighter", np.maximum(x - images, 0)),
                ("darker", np.maximum(images - x, 0)),
            )
        }

    def _decoded(self, codes, size):
        images = self.model.decode(codes, batch_size=self.batch_size, size=tuple(size))
        return np.clip(images[..., 0], 0, 1)

    def _check_grid(self, codes):
        if self.prior is None:
            raise UserError("prior: none; expected a run whose prior is trained")
        given, expected = np.shape(codes)[1:], self.prior.grid_shape
        if given != tuple(expected):
            sizes = (
                " x ".join(str(n * s) for n, s in zip(grid, self.model.stride, strict=True))
                for grid in (given, expected)
            )
            raise UserError(
                "slices: found {} pixels; expected {}, the size that the prior was trained for "
                "(the reconstruction alone works at any size)".format(*sizes)
            )


def _interpolation(cells, size, stride):
    """Matrix `(size, cells)` float32 of linear interpolation between the centres of cells."""
    missing = cells * stride - size
    if not 0 <= missing < stride:
        raise ValueError(
            f"{size} pixels have {-(-size // stride)} cells of {stride}. Received: {cells} cells"
        )
    # Beyond the outermost centres the outermost value holds. Half of the padding is in front.
    place = (np.arange(size) + missing // 2 + 0.5) / stride - 0.5
    place = np.clip(place, 0, cells - 1)
    below = np.minimum(place.astype(int), max(cells - 2, 0))
    matrix = np.zeros((size, cells), "float32")
    matrix[np.arange(size), below] = 1 - (place - below)
    matrix[np.arange(size), np.minimum(below + 1, cells - 1)] += place - below
    return matrix
