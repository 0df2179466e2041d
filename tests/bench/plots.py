# SPDX-License-Identifier: MIT
"""Pictures of what table.py has measured, by gnuplot."""
import os
import statistics
import subprocess

HEAD = """set terminal pngcairo size 900,540 font "sans,11"
set output "{png}"
set grid y
set border 3
set tics nomirror
set key outside top center horizontal
"""


def draw(out, name, script, data):
    """data: name of a file -> its lines; the script names them by {name}."""
    files = {}
    for key, lines in data.items():
        files[key] = os.path.join(out, f"{name}-{key}.dat")
        with open(files[key], "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    png = os.path.join(out, name + ".png")
    subprocess.run(["gnuplot"], input=(HEAD + script).format(png=png, **files), text=True, check=True)
    return png


def sweep(out, points):
    """points: mode -> {writers: rows a second}."""
    script = 'set xlabel "processes that write"\nset ylabel "rows a second"\nset logscale x 2\nset yrange [0:]\nplot '
    script += ", ".join(f'"{{m{i}}}" using 1:2 with linespoints lw 2 pt 7 title "{mode}"'
                        for i, mode in enumerate(points))
    return draw(out, "writers", script, {f"m{i}": [f"{n} {rate}" for n, rate in sorted(points[mode].items())]
                                         for i, mode in enumerate(points)})


def bars(out, name, title, rates):
    """rates: what -> rows a second."""
    script = (f'set title "{title}"\nset ylabel "rows a second"\nset yrange [0:]\nunset key\n'
              'set style fill solid 0.7\nset boxwidth 0.6\nplot "{rates}" using 0:2:xtic(1) with boxes')
    return draw(out, name, script, {"rates": [f'"{what}" {rate}' for what, rate in rates.items()]})


def latencies(out, name, title, runs):
    """runs: mode -> its runs; the medians of their quantiles."""
    script = (f'set title "{title}"\nset ylabel "milliseconds"\nset logscale y\n'
              'set style fill solid 0.7\nset style data histograms\nset yrange [0.01:]\nplot ')
    modes = list(runs)
    script += ", ".join(f'"{{all}}" using {i + 2}:xtic(1) title "{mode}"' for i, mode in enumerate(modes))
    lines = []
    for quantile in "p50", "p90", "p99", "p99.9", "max":
        values = (statistics.median(run["writes"]["latency_ms"][quantile] for run in runs[mode]) for mode in modes)
        lines.append(" ".join([quantile, *(f"{value:.4f}" for value in values)]))
    return draw(out, name, script, {"all": lines})
