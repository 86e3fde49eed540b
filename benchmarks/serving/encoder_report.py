"""What a run of the encoder benchmark leaves behind: one JSON file, one Markdown file."""

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
    """Writes the results of a run; what was computed on an accelerator has its name, and growing batches."""
    about = machine(("torch", "transformers", "numpy", *(["openvino"] if _has("openvino") else [])))
    about["load_average"] = os.getloadavg()[0]
    about["accelerator"] = accelerator
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "absent": absent, "starts": starts, "works": found, "saturation": saturation}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    text = markdown(about, found, absent, starts, anchor)
    out.with_suffix(".md").write_text(text + ("" if saturation is None else saturated(saturation)), "utf-8")


def line(one: Figures) -> str:
    """One kind of work on one line."""
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
    """The figures to read."""
    names = [name for name in found[0]["backends"] if name != anchor]
    accelerator = about["accelerator"]
    where = f"{'' if accelerator is None else f'{accelerator}, beside '}{about['cores']} cores of {about['processor']}"
    lines = [
        "# Encoder, in one process",
        "",
        f"Documents a second, and the ratio to {anchor} (median of the rounds' ratios, least and most in brackets); "
        f"all take turns in every round. all-MiniLM-L6-v2, `python -m benchmarks.serving.encoder` on "
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
    """Growing batches to read: a table for each backend."""
    lines = [
        "",
        f"## Growing batches of documents of {figures['length']} tokens",
        "",
        "Documents a second as they are served (`encode_tokens`, vectors on the host) and of the bare forward pass over "
        "one batch that is on the device. TFLOP/s and the share of the peak are the bare forward pass's: twice the "
        "weights of its linear layers for each token, and attention's products. A batch saturates from where it reaches "
        "95 % of the most documents a second.",
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
            "In bfloat16 attention's products stay in float32; the share is of the bfloat16 peak all the same.",
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
