"""Tables of a bench run: printed, in docs/performance.md and in README.md.

    python bench/page.py RESULTS.json    # writes the pages from a saved run
"""

import json
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "oracle"))
import report  # noqa: E402
from columns import LABELS  # noqa: E402

ORDER = ["runtime", "textbook", "nn", "eager", "compile", "openvino"]
MIB = 2**20
NOT_MEASURED = "not measured"


def subject(result):
    return result["columns"][result["subject"]]


def ratio(result, names):
    """How many times faster we are than the fastest of `names` that ran; None without any."""
    medians = [result["columns"][name]["median"] for name in names if name in result["columns"]]
    return min(medians) / subject(result)["median"] if medians else None


def verdicts(result):
    """One entry per target of the case."""
    target, found = result["target"], []
    for key, what, names in (("eager", "speed against eager", ["eager"]),
                             ("best", "speed against the best peer", ["compile", "openvino"])):
        if target[key]:
            reached = ratio(result, names)
            found.append({"what": what, "wanted": f"{target[key]:g}x",
                          "reached": f"{reached:.2f}x" if reached else NOT_MEASURED,
                          "met": bool(reached and reached >= target[key])})
    if target["peak_mib"]:
        peak = subject(result)["peak_rss"] / MIB
        found.append({"what": "peak memory", "wanted": f"{target['peak_mib']:g} MiB", "reached": f"{peak:.0f} MiB",
                      "met": peak <= target["peak_mib"]})
    return found


def seconds(column):
    """Median and range."""
    values = column["seconds"]
    text = f"{column['median']:.3g}"
    return text if len(values) < 2 else f"{text} ({min(values):.3g} to {max(values):.3g})"


def times(value):
    return f"{value:.2f}x" if value else "-"


def one_line(result):
    parts = [f"{LABELS[name]} {result['columns'][name]['median']:.3g} s" for name in ORDER if name in result["columns"]]
    return (f"{result['case']}: {times(ratio(result, ['eager']))} eager, "
            f"{times(ratio(result, ['compile', 'openvino']))} best peer, {subject(result)['peak_rss'] / MIB:.0f} MiB; "
            + ", ".join(parts))


def targets_table(results):
    rows = [[r["case"], v["what"], v["wanted"], v["reached"], "met" if v["met"] else v["reached"] if v["reached"] == NOT_MEASURED else "**missed**"]
            for r in results for v in r["verdicts"]]
    return report.table(["model", "what", "wanted", "reached", ""], rows)


def speed_table(results):
    names = [name for name in ORDER if any(name in r["columns"] for r in results)]
    rows = []
    for r in results:
        cells = [seconds(r["columns"][name]) if name in r["columns"] else "-" for name in names]
        rows.append([r["case"], *cells, times(ratio(r, ["eager"])), times(ratio(r, ["compile", "openvino"]))])
    header = ["seconds: median (range)", *(LABELS[name] for name in names), "faster than eager",
              "faster than the best of the others"]
    return report.table(header, rows)


def memory_table(results):
    names = [name for name in ("runtime", "nn", "eager", "compile", "openvino")
             if any(name in r["columns"] for r in results)]
    rows = [[r["case"], *(f"{r['columns'][n]['peak_rss'] / MIB:,.0f}" if n in r["columns"] else "-" for n in names)]
            for r in results]
    return report.table(["peak resident MiB", *(LABELS[n] for n in names)], rows)


def short(attention):
    return attention.replace("encoder.self_attend", "process").replace(".cross_attend.0", "").replace(".cross_attend", "")


def plan_words(stats):
    """encoder factored, process textbook, ..."""
    return ", ".join(f"{short(name)} {plan}" for name, plan in stats.get("plan", {}).items()) or "textbook"


def executed_flops(stats):
    """Of one forward in the orders that ran; None where the engine does not count them."""
    return sum(used["flops"] for used in stats.get("attentions", [])) or None


def work_table(results):
    rows = []
    for r in results:
        stats, median = r["stats"], subject(r)["median"]
        peak, done = r["gemm_peak_flops"], executed_flops(r["stats"])
        rows.append([
            r["case"], plan_words(stats), f"{stats['flops'] / 1e9:,.0f}", f"{done / 1e9:,.0f}" if done else "-",
            f"{done / median / peak:.0%}" if done and peak else "-",
            f"{stats['flops'] / median / peak:.0%}" if peak else "-",
            f"{r['differences'].get(r['subject'], 0):.1e}",
            *(f"{r['errors'][name]:.1e}" if name in r["errors"] else "-" for name in (r["subject"], "eager"))])
    header = ["model", "order of each attention", "GFLOP of the textbook order", "GFLOP done", "share of the peak",
              "the same, counting the textbook's work", "outputs differ from eager's by", "our float32 error",
              "eager's float32 error"]
    return report.table(header, rows)


def remarks(results):
    lines = []
    for r in results:
        if r["peer_chunks"] > 1:
            lines.append(f"- {r['case']}: the peer's seconds are those of one measured chunk times {r['peer_chunks']}, "
                         "as it encodes again for each.")
        prepare = [f"{LABELS[n]} {c['prepare_seconds']:.0f} s" for n, c in r["columns"].items()
                   if n in ("compile", "openvino") and c["prepare_seconds"]]
        if prepare:
            lines.append(f"- {r['case']}: until its first answer {', '.join(prepare)}.")
        lines += [f"- {r['case']}: no {LABELS[name]}: {reason}." for name, reason in r["skipped"].items()]
    return "\n".join(lines)


def stack_table(rows):
    return report.table(
        ["latents of", "ms a layer", "GFLOP/s", "peak measured", "share"],
        [[r["preset"], f"{r['seconds_per_layer'] * 1e3:.1f}", f"{r['flops_per_second'] / 1e9:.0f}",
          f"{r['gemm_peak_flops'] / 1e9:.0f}", f"{r['share']:.0%}"] for r in rows])


def training_table(path):
    """Rows of bench/train_step.py's JSON lines."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]
    return report.table(
        ["one step", "ours: seconds", "transformers: seconds", "faster", "our peak MiB", "theirs", "gradients differ by"],
        [[r["model"], f"{statistics.median(r['ours_seconds']):.3g}", f"{statistics.median(r['theirs_seconds']):.3g}",
          times(r["ratio"]), f"{r['ours_peak_rss'] / MIB:,.0f}", f"{r['theirs_peak_rss'] / MIB:,.0f}",
          f"{r['difference']:.1e}"] for r in rows])


def write(results_file):
    with open(results_file, encoding="utf-8") as file:
        run = json.load(file)
    results = run["results"]
    peaks = [r["gemm_peak_flops"] for r in results if r["gemm_peak_flops"]]
    peak = f" Matrix-product peak measured in the run: {statistics.median(peaks) / 1e9:.0f} GFLOP/s." if peaks else ""
    about = (f"`{run['command']}` at commit {run['commit']}; {run['cpu']}; {run['threads']} threads, float32; "
             f"{run['versions']}.{peak}")
    parts = [about, speed_table(results), memory_table(results), work_table(results), remarks(results),
             "Targets:", targets_table(results)]
    page = os.path.join(report.root(), "docs", "performance.md")
    report.replace_section(page, "bench", "\n\n".join(parts))
    if run.get("stack"):
        report.replace_section(page, "stack", stack_table(run["stack"]))
    short = [[r["case"], times(ratio(r, ["eager"])), times(ratio(r, ["compile", "openvino"])),
              f"{subject(r)['peak_rss'] / MIB:,.0f} MiB", f"{r['columns']['eager']['peak_rss'] / MIB:,.0f} MiB"]
             for r in results]
    header = ["model", "faster than transformers eager", "than the best of torch.compile and OpenVINO", "our peak memory",
              "eager's"]
    report.replace_section(os.path.join(report.root(), "README.md"), "ratios", report.table(header, short))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(sys.argv[1])
