"""What the bench found, as a table, as files, as plots and as a section of the README."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xent_numba as xn
from benchmarks.peers import BOTH, LOG_SOFTMAX, LOGSUMEXP, LOSS, OURS, SOFTMAX

PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "onnxruntime", "scikit-learn", "scipy", "ml_dtypes")
BEGIN, END = "<!-- benchmarks/cpu.py: begin -->", "<!-- benchmarks/cpu.py: end -->"
Rows = list[dict[str, Any]]


def machine(threads: int, names: list[str], rounds: int, quick: bool) -> dict[str, Any]:
    """What the numbers are of."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    versions = {"xent_numba": xn.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    from xent_numba.backends.cpu.backend import BACKEND

    facts = {key: value for key, value in BACKEND.describe().items() if key != "cache"}
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None, "rounds": rounds, "quick": quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "peers": names, "backend": facts, "versions": versions,
    }  # fmt: skip


def as_text(rows: Rows) -> str:
    """Everybody of one case."""
    lines = [rows[0]["case"]]
    for row in sorted(rows, key=lambda row: (row["who"] != "limit", row["what"], row["reusing"], row["ms"])):
        way = "reusing" if row["reusing"] else "allocating"
        faster = (
            "" if row["who"] in (OURS, "limit") or math.isnan(row["ours faster"]) else f"{row['ours faster']:7.2f}×"
        )
        lines.append(
            f"  {row['what']:<16} {way:<11} {row['who']:<14} {row['ms']:10.3f} ms  {row['GB/s']:7.2f} GB/s"
            f" ({row['bytes']:<8}) {row['of limit']:6.3f} of limit {faster}"
        )
    return "\n".join(lines)


def _one(rows: Rows, who: str, what: str, reusing: bool) -> dict[str, Any] | None:
    return next((r for r in rows if (r["who"], r["what"], r["reusing"]) == (who, what, reusing)), None)


def _fastest(rows: Rows, what: str, reusing: bool) -> str:
    peers = [r for r in rows if r["who"] not in (OURS, "limit") and (r["what"], r["reusing"]) == (what, reusing)]
    if not peers:
        return ""
    best = min(peers, key=lambda r: r["ms"])
    return f"{best['ours faster']:.1f}× {best['who']}"


def cases(found: dict[str, Any], sweep: bool) -> list[Rows]:
    """The rows of each case."""
    by_case: dict[str, Rows] = {}
    for row in found["results"]:
        if row["sweep"] == sweep:
            by_case.setdefault(row["case"], []).append(row)
    return list(by_case.values())


def table(found: dict[str, Any]) -> str:
    """Markdown: for each case the fraction of the limit, the speed in GB/s, and how much faster than the next."""
    head = (
        "| logits | loss: GB/s | ÷ read | faster than | loss + gradient: GB/s | ÷ copy | faster than, allocating |"
        " reusing |"
    )
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for rows in cases(found, sweep=False):
        loss, both = _one(rows, OURS, LOSS, False), _one(rows, OURS, BOTH, True)
        if loss is None or both is None:
            continue
        lines.append(
            f"| {rows[0]['case']} | {loss['GB/s']:.1f} | {loss['of limit']:.2f} | {_fastest(rows, LOSS, False)} |"
            f" {both['GB/s']:.1f} | {both['of limit']:.2f} | {_fastest(rows, BOTH, False)} |"
            f" {_fastest(rows, BOTH, True)} |"
        )
    lines += ["", "| logits | softmax | log_softmax | logsumexp |", "|---|--:|--:|--:|"]
    for rows in cases(found, sweep=False):
        faster = " | ".join(_fastest(rows, what, False) for what in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP))
        lines.append(f"| {rows[0]['case']} | {faster} |")
    return "\n".join(lines)


def write(found: dict[str, Any], folder: Path) -> None:
    """CSV, JSON and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in found["results"]]
    found = {**found, "results": rows}
    with (folder / "cpu.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({**found, "results": [_finite(row) for row in rows]}, indent=1, ensure_ascii=False)
    (folder / "cpu.json").write_text(text + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib"):
        plot(found, folder)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def plot(found: dict[str, Any], folder: Path) -> None:
    """The fraction of the limit over C, and the speed against each peer."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker

    title = f"{found['machine']['cpu']}, {found['machine']['threads']} threads"
    swept = sorted((rows for rows in cases(found, sweep=True)), key=lambda rows: rows[0]["classes"])
    if swept:
        figure, axis = plt.subplots(figsize=(7, 4))
        for what, reusing, label in ((LOSS, False, "loss ÷ read"), (BOTH, True, "loss + gradient ÷ copy")):
            points = [(row["classes"], row["of limit"]) for rows in swept if (row := _one(rows, OURS, what, reusing))]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        axis.set(xscale="log", ylim=(0, 1.1), xlabel="classes", ylabel="fraction of the limit", title=title)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.grid(alpha=0.3)
        axis.legend()
        figure.savefig(folder / "cpu_limit.png", dpi=120, bbox_inches="tight")
        plt.close(figure)
    compared = cases(found, sweep=False)
    names = found["machine"]["peers"]
    if compared and names:
        figure, axes = plt.subplots(1, 2, figsize=(12, 1.2 + 0.42 * len(compared)), sharey=True, layout="constrained")
        for axis, what in zip(axes, (LOSS, BOTH), strict=True):
            for colour, name in enumerate(names):
                points = [
                    (row["ours faster"], i) for i, rows in enumerate(compared) if (row := _one(rows, name, what, False))
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), "o", color=f"C{colour}", label=name)
            axis.axvline(1, color="grey", linewidth=0.8)
            axis.set(xscale="log", title=f"{what}: how many times faster")
            axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}×")
            axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axis.set_yticks(range(len(compared)), [rows[0]["case"] for rows in compared])
            axis.grid(alpha=0.3)
        axes[0].invert_yaxis()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        figure.supxlabel(title)
        figure.savefig(folder / "cpu_peers.png", dpi=120, bbox_inches="tight")
        plt.close(figure)


def section(found: dict[str, Any], images: str) -> str:
    """The README's section."""
    facts = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    small = found["small calls, µs"]
    first = found["first calls, s"]
    command = facts.get("command", "python benchmarks/cpu.py")
    lines = [
        f"Output of `{command}` on {facts['cpu']}, {facts['threads']} threads ({versions}): the best of"
        f" {facts['rounds']} interleaved rounds.  *read* is the fastest pass that only reads the logits, *copy* the"
        " fastest copy of them; the loss moves N·C·b bytes (b: bytes of a logit), loss and gradient 2·N·C·b.",
        "",
        table(found),
        "",
        "Loss and gradient of 2 × 3 logits: "
        + ", ".join(f"{who} {value:.1f} µs" for who, value in small.items())
        + ".",
        "",
        "Until the first result: " + ", ".join(f"{what} {value:.2f} s" for what, value in first.items()) + ".",
        "",
    ]
    if cases(found, sweep=True):
        lines.append(f"![fraction of the limit over the number of classes]({images}/cpu_limit.png)")
    if cases(found, sweep=False) and facts["peers"]:
        lines.append(f"![speed against each peer]({images}/cpu_peers.png)")
    return "\n".join(lines)


def update_readme(found: dict[str, Any], readme: Path, folder: Path) -> None:
    """Rewrite what stands between the markers; append them where there are none."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text:
        text += f"\n## Speed\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    images = os.path.relpath(folder, readme.parent).replace(os.sep, "/")
    readme.write_text(f"{before}{BEGIN}\n\n{section(found, images)}\n\n{END}{after}", encoding="utf-8")
