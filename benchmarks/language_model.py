"""Train a language model on the source of Python's standard library, which is on every machine that runs this.

python benchmarks/language_model.py              three epochs over two million words, 20 000 of them different
python benchmarks/language_model.py --quick      a few seconds: to see that it works

The next word is predicted from the two before it, or from the number that `--context` gives: 1 makes it a bigram model.
Their embeddings, side by side, are the input of a linear head, and a softmax over the vocabulary follows.  Digits and
signs are words as well.  Words that the vocabulary lacks are left out of the loss.

What is printed: loss and perplexity, e^loss, of text that the training does not see; the words per second of the
training, and the peak memory of the process beside the size of the logits of one batch, which never exist as a whole.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# Not this folder: its cuda.py would hide NVIDIA's package `cuda`.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

import xent_numba as xn  # noqa: E402

WORD = re.compile(r"[^\W\d]+|\d|[^\w\s]")
# Installed packages are not Python's own; tests are not installed everywhere; encodings are tables of numbers.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}
TRAINED = 0.9  # of the text; the rest is held out
BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8  # of Adam
SETTINGS = (  # name, value, value for --quick, meaning
    ("words", 10**9, 12_000, "words of text to read, at most"),
    ("vocabulary", 20_000, 500, "words that can be predicted: the most frequent ones"),
    ("context", 2, 2, "words from which the next is predicted"),
    ("features", 32, 16, "length of the embedding of a word"),
    ("batch", 8192, 256, "words of each step of the training"),
    ("epochs", 3, 1, "times that the text is gone through"),
    ("rate", 0.01, 0.02, "learning rate of Adam"),
)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model of little text: to see that it works")
    for name, value, quick, meaning in SETTINGS:
        parser.add_argument(f"--{name}", type=type(value), help=f"{meaning} ({value}; with --quick {quick})")
    chosen = parser.parse_args(given)
    for name, value, quick, _ in SETTINGS:
        if getattr(chosen, name) is None:
            setattr(chosen, name, quick if chosen.quick else value)
    return chosen


# --- the text -------------------------------------------------------------------------------------------------------


def text(limit: int, context: int) -> list[str]:
    """The words of the standard library's modules, in a random order of modules that is always the same.

    Empty words stand before each module, because nothing is known before its first word.
    """
    files = []
    for folder, subfolders, names in os.walk(sysconfig.get_path("stdlib")):
        subfolders[:] = sorted(set(subfolders) - LEFT_OUT)
        files += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    found: list[str] = []
    for i in np.random.default_rng(0).permutation(len(files)):
        words = WORD.findall(files[i].read_text(encoding="utf-8", errors="replace"))
        found += [""] * context
        found += map(sys.intern, words)
        if len(found) >= limit:
            break
    return found[:limit]


def most_frequent(words: list[str], size: int) -> dict[str, int]:
    """So many words, numbered by their frequency."""
    counts = Counter(words)
    del counts[""]
    return {word: i for i, (word, _) in enumerate(counts.most_common(size))}


def numbered(words: list[str], vocabulary: dict[str, int], context: int) -> np.ndarray:
    """Each word of the vocabulary after its context: rows of `context` + 1 numbers.

    In a context, every word that the vocabulary lacks has the same number: the one after its last.
    """
    other = len(vocabulary)
    numbers = np.array([vocabulary.get(word, other) for word in words], np.int32)
    rows = np.lib.stride_tricks.sliding_window_view(numbers, context + 1)
    return rows[rows[:, -1] != other]


# --- the model ------------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """Its parameters; or their gradients, or the moments of these."""

    embedding: np.ndarray  # (V + 1, features): the last row stands for every word that the vocabulary lacks
    weight: np.ndarray  # (V, context · features)
    bias: np.ndarray  # (V,)


def new_model(vocabulary: int, context: int, features: int, dtype: type = np.float32) -> Model:
    """A model that knows nothing: all words are equally likely, so its loss is log V."""
    embedding = np.random.default_rng(1).standard_normal((vocabulary + 1, features)).astype(dtype)
    return Model(embedding, np.zeros((vocabulary, context * features), dtype), np.zeros(vocabulary, dtype))


def head(model: Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of a linear head for rows of numbers: input, weight and target."""
    return model.embedding[rows[:, :-1]].reshape(len(rows), -1), model.weight, rows[:, -1]


def loss_and_gradients(model: Model, rows: np.ndarray, out: Model) -> float:
    """The mean loss of rows of numbers; writes its gradients to `out`."""
    loss, grad, _, _ = xn.linear_cross_entropy_and_grad(
        *head(model, rows),
        linear_bias=model.bias,
        linear_weight_grad_out=out.weight,
        linear_bias_grad_out=out.bias,
    )
    out.embedding.fill(0)
    np.add.at(out.embedding, rows[:, :-1], grad.reshape(len(rows), -1, out.embedding.shape[1]))
    return float(loss)


def mean_loss(model: Model, rows: np.ndarray, batch: int) -> float:
    """The mean loss of rows of numbers, without gradients."""
    parts = (rows[i : i + batch] for i in range(0, len(rows), batch))
    return sum(len(p) * float(xn.linear_cross_entropy(*head(model, p), linear_bias=model.bias)) for p in parts) / len(
        rows
    )


class Adam:
    """Steps of a size that the mean and the mean square of the last gradients determine."""

    def __init__(self, model: Model, rate: float) -> None:
        """Begin with means of 0."""
        self._model, self._rate, self._step = model, rate, 0
        self._mean, self._square = (Model(*map(np.zeros_like, model)) for _ in range(2))

    def step(self, gradients: Model) -> None:
        """Move the model.  The gradients are overwritten."""
        self._step += 1
        rate = self._rate * (1 - BETA_2**self._step) ** 0.5 / (1 - BETA_1**self._step)
        for parameter, mean, square, grad in zip(self._model, self._mean, self._square, gradients, strict=True):
            mean += (1 - BETA_1) * (grad - mean)
            np.multiply(grad, grad, out=grad)
            square += (1 - BETA_2) * (grad - square)
            np.sqrt(square, out=grad)
            grad += TINY
            np.divide(mean, grad, out=grad)
            grad *= rate
            parameter -= grad


# --- training -------------------------------------------------------------------------------------------------------


def batches(rows: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """All rows in a random order, some at a time; with a progress bar if tqdm is installed and somebody looks."""
    order = np.random.default_rng(seed).permutation(len(rows))
    starts: Iterable[int] = range(0, len(rows), size)
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            starts = tqdm(starts, f"epoch {seed}", unit="batch", leave=False)
    for start in starts:
        yield rows[order[start : start + size]]


def peak_megabytes() -> float:
    """The most memory that the process has had."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main(given: list[str] | None = None) -> list[float]:
    """Train, and print what came out.  Returns the perplexities of the text held out, before and after each epoch."""
    chosen = arguments(given)
    words = text(chosen.words, chosen.context)
    n_trained = int(len(words) * TRAINED)
    vocabulary = most_frequent(words[:n_trained], chosen.vocabulary)
    rows, held_out = (numbered(part, vocabulary, chosen.context) for part in (words[:n_trained], words[n_trained:]))
    print(f"{len(rows)} words to train on, {len(held_out)} held out, {len(vocabulary)} in the vocabulary")
    frequency = np.bincount(rows[:, -1], minlength=len(vocabulary)) / len(rows)
    print(f"by frequency alone: perplexity {np.exp(-np.log(frequency[held_out[:, -1]]).mean()):.1f}")

    model = new_model(len(vocabulary), chosen.context, chosen.features)
    gradients, adam = Model(*map(np.empty_like, model)), Adam(model, chosen.rate)
    loss_and_gradients(model, rows[:2], gradients)  # compiles
    before = peak_megabytes()
    losses = [mean_loss(model, held_out, chosen.batch)]
    print(f"epoch 0: loss {losses[0]:.3f}, perplexity {np.exp(losses[0]):.1f}", flush=True)
    for epoch in range(1, chosen.epochs + 1):
        start = time.perf_counter()
        for batch in batches(rows, chosen.batch, epoch):
            loss_and_gradients(model, batch, gradients)
            adam.step(gradients)
        speed = len(rows) / (time.perf_counter() - start)
        losses.append(mean_loss(model, held_out, chosen.batch))
        print(
            f"epoch {epoch}: loss {losses[-1]:.3f}, perplexity {np.exp(losses[-1]):.1f}, {speed:.0f} words per second",
            flush=True,
        )
    logits = min(chosen.batch, len(rows)) * len(vocabulary) * model.weight.itemsize / 1e6
    print(f"peak memory: {before:.0f} MB before the first step, {peak_megabytes():.0f} MB after the last")
    print(f"the logits of one batch: {logits:.0f} MB")
    return np.exp(losses).tolist()


if __name__ == "__main__":
    main()
