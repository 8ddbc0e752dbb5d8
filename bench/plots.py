"""The plots of docs/performance.md, from what bench/serving.py wrote with --json.

    .venv/bin/python -m pip install -c constraints.txt -e '.[bench]'
    .venv/bin/python bench/plots.py bench/results/serving-float32.json docs/plots/serving-float32.svg 'SmolLM2, float32'

matplotlib is only for this.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "textgen", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = ["#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#64748b"]


def bars(axes: Axes, rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], title: str) -> None:
    """A group for each load, in it a bar for each contestant."""
    loads = list(dict.fromkeys(row["load"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        mine = [row for row in rows if row["name"] == name and value(row)]
        places = [loads.index(row["load"]) + (number - (len(names) - 1) / 2) * width for row in mine]
        drawn = axes.bar(places, [value(row) for row in mine], width * 0.92, label=name, color=COLOURS[number])
        axes.bar_label(drawn, fmt="{:,.0f}", fontsize=7, padding=1)
    axes.set_xticks(range(len(loads)), loads)
    axes.set_title(title, loc="left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("title")
    args = parser.parse_args()
    rows = json.loads(args.results.read_text())["rows"]
    figure, (speed, cost) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    bars(speed, rows, lambda row: row["tokens_per_second"], f"{args.title}: tokens/s, more is better")
    bars(cost, rows, lambda row: row["gap_p99"] * 1e3, "between tokens, p99, ms, less is better")
    handles, names = speed.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
