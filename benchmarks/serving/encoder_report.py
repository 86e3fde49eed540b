"""The results files of the encoder benchmark: one in JSON and one in Markdown."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

Figures = Mapping[str, Any]


def write(
    found: Sequence[Figures],
    absent: Mapping[str, str],
    starts: Sequence[Figures],
    out: Path,
    anchor: str,
    *,
    accelerator: str | None = None,
    saturation: Figures | None = None,
) -> None:
    """Write the results of a run. Results from an accelerator have its name, and those of growing batches."""
    about = machine(("torch", "transformers", "numpy", *(["openvino"] if _has("openvino") else [])))
    about["load_average"] = os.getloadavg()[0]
    about["accelerator"] = accelerator
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "absent": absent, "starts": starts, "works": found, "saturation": saturation}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    text = markdown(about, found, absent, starts, anchor)
    out.with_suffix(".md").write_text(text + ("" if saturation is None else saturated(saturation)), "utf-8")


def line(one: Figures) -> str:
    """Return the result of one kind of work on one line."""
    cells = [
        f"{name} {b['documents_a_second']:.1f}/s ×{b['ratio']:.2f}" for name, b in one["backends"].items()
    ]
    return f"{one['work']}: " + ", ".join(cells)


def markdown(
    about: Figures,
    found: Sequence[Figures],
    absent: Mapping[str, str],
    starts: Sequence[Figures],
    anchor: str,
) -> str:
    """Return the figures as Markdown."""
    names = [name for name in found[0]["backends"] if name != anchor]
    accelerator = about["accelerator"]
    where = f"{'' if accelerator is None else f'{accelerator}, beside '}{about['cores']} cores of {about['processor']}"
    lines = [
        "# Encoder, in one process",
        "",
        f"Documents per second, and the ratio to {anchor} (median, minimum and maximum of the rounds' ratios). All "
        f"backends take turns in every round. all-MiniLM-L6-v2, `python -m benchmarks.serving.encoder` on "
        f"{where}; load average at the end {about['load_average']:.1f}; "
        f"commit {about['commit']}, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + ".",
        "",
    ]
    for threads, busy in dict.fromkeys((one["threads"], one["busy"]) for one in found):
        title = accelerator or f"{threads} thread{'s' if threads > 1 else ''}"
        lines += [f"## {title}{', while another process takes a core' if busy else ''}", ""]
        lines += [
            f"| work | anchor | {' | '.join(names)} | tokenizing |",
            "|:--" + "|--:" * (len(names) + 2) + "|",
        ]
        for one in found:
            if (one["threads"], one["busy"]) != (threads, busy):
                continue
            base = one["backends"][anchor]["documents_a_second"]
            share = one["tokenizing_seconds"] * base / one["documents"]
            cells = [_cell(one["backends"][name]) for name in names]
            lines.append(
                f"| {one['work']} | {base:.1f} | {' | '.join(cells)} | {share:.1%} of the anchor's time |"
            )
        lines.append("")
    lines += [f"- {name} does not serve here: {reason}" for name, reason in absent.items()]
    lines += [
        f"- From nothing to the first vector on {one['backend']}: {one['seconds']:.1f} s; "
        f"{one['rss_bytes'] / 2**20:.0f} MiB after work; torch was {'imported' if one['torch'] else 'not imported'}."
        for one in starts
    ]
    return "\n".join(lines) + "\n"


def saturated(figures: Figures) -> str:
    """Return the figures of growing batches as Markdown, with a table for each backend."""
    lines = [
        "",
        f"## Growing batches of documents of {figures['length']} tokens",
        "",
        "The tables show documents per second as served (`encode_tokens`, vectors on the host) and in the bare forward "
        "pass over one batch that is already on the device. TFLOP/s and the share of the peak refer to the bare forward "
        "pass: twice the weights of its linear layers for each token, plus attention's products. A device is saturated "
        "by the smallest batch that reaches 95 % of the highest rate.",
        "",
    ]
    lines += [
        f"- Peak in {precision}: {peak['tflops']:.4g} TFLOP/s, {peak['source']}."
        for precision, peak in figures["peaks"].items()
    ]
    for name, one in figures["backends"].items():
        at = one["saturates"]
        lines += [
            "",
            f"### {name}",
            "",
            f"Saturates at **{at['served']}** documents as it is served, {one['documents_at_once']} at once at most, "
            f"and at **{at['forward']}** in the bare forward pass.",
            "",
            f"| documents | served, a second | forward, a second | TFLOP/s | share of the {one['precision']} peak |",
            "|--:" * 5 + "|",
        ]
        for row in one["batches"]:
            cells = (_of(row["served"], ".1f"), _of(row["forward"], ".1f"), _of(row["tflops"], ".3g"))
            lines.append(f"| {row['documents']} | {' | '.join(cells)} | {_of(row['share_of_peak'], '.1%')} |")
    if any(one["precision"] == "bfloat16" for one in figures["backends"].values()):
        lines += [
            "",
            "In bfloat16, attention's products stay in float32. The share still refers to the bfloat16 peak.",
        ]
    return "\n".join(lines) + "\n"


def _of(figure: float | None, form: str) -> str:
    return "out of memory" if figure is None else format(figure, form)


def _cell(backend: Figures) -> str:
    spread = f"{backend['ratio_least']:.2f}–{backend['ratio_most']:.2f}"
    return f"{backend['documents_a_second']:.1f} ×{backend['ratio']:.2f} ({spread})"


def _has(name: str) -> bool:
    from importlib.util import find_spec  # noqa: PLC0415

    return find_spec(name) is not None
