"""A small detector of coloured rectangles and discs, with generated scenes, training and metric.

Its outputs are those of YOLO since version 8: a distribution over 16 bins for each side of a box (distribution focal
loss, Li et al. 2020, arXiv:2006.04388), boxes in pixels computed from it, and class scores in the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

SIZE, STRIDE, BINS, BIN_PIXELS = 128, 16, 16, 6
GRID = SIZE // STRIDE
KINDS = 2  # rectangle, disc
MOST = 4  # objects in a scene
OVERLAPS = np.arange(0.5, 1.0, 0.05)  # of a found box with the true one: COCO's thresholds
SCORE_LEAST, NMS_OVERLAP = 0.05, 0.5


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 128, 128, 3) as float32 in 0..255, and (n, 4, 5): kind or -1, x1, y1, x2, y2 in pixels."""
    generator = np.random.default_rng(seed)
    images = np.empty((count, SIZE, SIZE, 3), np.float32)
    labels = np.full((count, MOST, 5), -1, np.float32)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for image, objects in zip(images, labels, strict=True):
        image[:] = generator.uniform(40, 160, 3) + generator.normal(0, 18, image.shape)
        for place, (kind, box) in enumerate(_places(generator)):
            x1, y1, x2, y2 = box
            inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
            if kind == 1:
                inside = np.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2) <= (x2 - x1) / 2
            image[inside] = generator.uniform(0, 255, 3) + generator.normal(0, 10, 3)
            objects[place] = kind, *box
    return images.clip(0, 255), labels


def _places(generator: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """Return a few boxes that do not touch; a box without room after some trials is left out."""
    taken: list[np.ndarray] = []
    for _ in range(generator.integers(1, MOST + 1)):
        for _ in range(20):
            kind, (w, h) = int(generator.integers(KINDS)), generator.uniform(14, 52, 2)
            h = w if kind == 1 else h
            x, y = generator.uniform(0, SIZE - w), generator.uniform(0, SIZE - h)
            box = np.array([x, y, x + w, y + h])
            if all((box[2:] < other[:2]).any() or (other[2:] < box[:2]).any() for other in taken):
                taken.append(box)
                yield kind, box
                break


def detector() -> Any:
    """The model with fresh weights: image (1, 128, 128, 3) → (1, 64, 6), each x1, y1, x2, y2 and two scores."""
    import keras
    from keras import layers, ops

    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for channels, stride in ((16, 2), (24, 2), (32, 2), (48, 2), (48, 1)):
        x = layers.Conv2D(channels, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    sides = layers.Conv2D(4 * BINS, 1)(layers.Conv2D(48, 3, padding="same", activation="relu")(x))
    sides = layers.Softmax()(layers.Reshape((GRID * GRID, 4, BINS), name="bins")(sides))
    count = np.arange(BINS, dtype=np.float32).reshape(1, 1, BINS, 1)
    expectation = layers.Conv2D(1, 1, use_bias=False, trainable=False, name="expectation")
    sides = layers.Reshape((GRID * GRID, 4))(expectation(sides)) * BIN_PIXELS
    expectation.set_weights([count])
    centres = np.stack(np.meshgrid(_centres(), _centres()), -1).reshape(1, -1, 2).astype(np.float32)  # (1, 64, 2)
    boxes = layers.Concatenate()([ops.subtract(centres, sides[..., :2]), ops.add(centres, sides[..., 2:])])
    scores = layers.Conv2D(KINDS, 1, bias_initializer=keras.initializers.Constant(-4))(
        layers.Conv2D(48, 3, padding="same", activation="relu")(x)
    )
    scores = layers.Activation("sigmoid")(layers.Reshape((GRID * GRID, KINDS), name="logits")(scores))
    return keras.Model(image, layers.Concatenate(name="detections")([boxes, scores]))


def _centres() -> np.ndarray:
    return (np.arange(GRID) + 0.5) * STRIDE


def trained(steps: int, batch: int = 64, count: int = 3000) -> Any:
    """Return the model trained on generated scenes; deterministic on one kind of machine."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = detector()
    heads = keras.Model(model.input, [model.get_layer("bins").output, model.get_layer("logits").output])
    images, labels = scenes(count, seed=0)
    targets = _targets(labels)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, steps))

    @tf.function
    def step(x: Any, kinds: Any, sides: Any, there: Any) -> None:
        with tf.GradientTape() as tape:
            bins, logits = heads(x, training=True)
            loss = _loss(tf, bins, logits, kinds, sides, there)
        variables = heads.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    generator = np.random.default_rng(1)
    for _ in range(steps):
        rows = generator.integers(0, count, batch)
        step(images[rows], *(target[rows] for target in targets))
    return model


def _targets(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each cell, if it is nearest to an object's centre, the object's kind and its sides in bins."""
    shape = (len(labels), GRID, GRID)
    kinds, sides, there = (np.zeros((*shape, *more), np.float32) for more in ((KINDS,), (4,), ()))
    for image, place in np.argwhere(labels[..., 0] >= 0):
        kind, x1, y1, x2, y2 = labels[image, place]
        column, row = int((x1 + x2) / 2 // STRIDE), int((y1 + y2) / 2 // STRIDE)
        x, y = _centres()[column], _centres()[row]
        kinds[image, row, column, int(kind)] = there[image, row, column] = 1
        sides[image, row, column] = np.clip(np.array([x - x1, y - y1, x2 - x, y2 - y]) / BIN_PIXELS, 0, BINS - 1.01)
    cells = GRID * GRID
    return kinds.reshape(-1, cells, KINDS), sides.reshape(-1, cells, 4), there.reshape(-1, cells)


def _loss(tf: Any, bins: Any, logits: Any, kinds: Any, sides: Any, there: Any) -> Any:
    """Return the cross entropy of the scores, of the two bins beside each side, and the distance of its expectation."""
    below = tf.floor(sides)
    chances = tf.nn.log_softmax(bins)
    at = tf.cast(below, tf.int32)
    low, high = (tf.gather(chances, at + more, batch_dims=3) for more in (0, 1))
    expected = tf.reduce_sum(tf.exp(chances) * tf.range(BINS, dtype=tf.float32), -1)
    boxes = tf.abs(expected - sides) - (1 - sides + below) * low - (sides - below) * high
    scores = tf.nn.sigmoid_cross_entropy_with_logits(kinds, logits)
    return (tf.reduce_sum(there[..., None] * boxes) + tf.reduce_sum(scores)) / tf.reduce_sum(there)


def mean_precision(outputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """Return the mean average precision over kinds and overlaps of 0.5 to 0.95, like COCO's but for all recalls."""
    (detections,) = outputs.values()
    values = []
    for kind in range(KINDS):
        wanted = [objects[objects[:, 0] == kind, 1:] for objects in labels]
        found = [hit for image, rows in enumerate(detections) for hit in _found(image, rows, kind)]
        found.sort(key=lambda hit: -hit[0])
        values += [_average_precision(found, wanted, overlap) for overlap in OVERLAPS]
    return float(np.mean(values))


def _found(image: int, rows: np.ndarray, kind: int) -> list[tuple[float, int, np.ndarray]]:
    """Return score, image and box of one kind's detections after non-maximum suppression."""
    scores = rows[:, 4 + kind]
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        apart = not kept or _overlaps(rows[row, :4], rows[kept, :4]).max() <= NMS_OVERLAP
        if scores[row] > SCORE_LEAST and apart:
            kept.append(row)
    return [(float(scores[row]), image, rows[row, :4]) for row in kept]


def _average_precision(found: list[tuple[float, int, np.ndarray]], wanted: list[np.ndarray], overlap: float) -> float:
    free = [np.ones(len(boxes), bool) for boxes in wanted]
    right = np.zeros(len(found))
    for place, (_, image, box) in enumerate(found):
        over = np.where(free[image], _overlaps(box, wanted[image]), 0.0)
        if over.size and over.max() >= overlap:
            right[place], free[image][over.argmax()] = 1, False
    hits = right.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(precision @ right / sum(map(len, wanted)))


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with others (n, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (box, others)]
    return np.asarray(shared / (areas[0] + areas[1] - shared + 1e-9))
