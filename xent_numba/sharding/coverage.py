"""Which classes some shards have together: sorted, disjoint spans."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """Classes from `start` to before `stop`, of which `size` are there: all, unless they came as numbers alone."""

    start: int
    stop: int
    size: int


Spans = tuple[Span, ...]


def union(a: Spans, b: Spans) -> Spans:
    """The spans of two parts together; ValueError where both have a class, as far as that is known."""
    merged: list[Span] = []
    for span in sorted((*a, *b)):
        if merged and span.start < merged[-1].stop:
            last = merged[-1]
            both = Span(last.start, max(last.stop, span.stop), last.size + span.size)
            if (is_whole(last) and is_whole(span)) or both.size > both.stop - both.start:
                raise ValueError(
                    f"both parts have class {span.start}: one has the classes {written(a)}, the other {written(b)}; "
                    "every shard must be added once, and shards may not overlap"
                )
            merged[-1] = both
        elif merged and span.start == merged[-1].stop and is_whole(span) and is_whole(merged[-1]):
            merged[-1] = Span(merged[-1].start, span.stop, merged[-1].size + span.size)
        else:
            merged.append(span)
    return tuple(merged)


def is_whole(span: Span) -> bool:
    """Whether no class of a span is missing."""
    return span.size == span.stop - span.start


def count(spans: Spans) -> int:
    """How many classes there are."""
    return sum(span.size for span in spans)


def hull(spans: Spans) -> Span:
    """One span in place of all, which no longer says which classes are missing between them."""
    return Span(spans[0].start, spans[-1].stop, count(spans))


def missing(spans: Spans, n_classes: int) -> str:
    """The classes that are not there, in words."""
    gaps, start = [], 0
    for span in (*spans, Span(n_classes, n_classes, 0)):
        if span.start > start:
            gaps.append(_words(start, span.start))
        if not is_whole(span):
            gaps.append(f"{span.stop - span.start - span.size} of {_words(span.start, span.stop)}")
        start = span.stop
    return " and ".join(gaps)


def written(spans: Spans) -> str:
    """The classes that are there, in words."""
    return " and ".join(
        _words(span.start, span.stop) if is_whole(span) else f"{span.size} of {_words(span.start, span.stop)}"
        for span in spans
    )


def _words(start: int, stop: int) -> str:
    """A range of classes in words."""
    return str(start) if stop == start + 1 else f"{start} to {stop - 1}"
