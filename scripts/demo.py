"""`make demo`: the whole way once, on real data, each step the command that a user would type.

    python scripts/demo.py --minutes 40 --out runs/demo

Fetches emoji, speech, text, filmed movements, molecules and films that people rated; trains a tokenizer for each of
seven modalities; tokenizes; pretrains a small language model with DeepSpeed; generates in every direction and holds
conversations; writes metrics.json and report.html. A finished step is not repeated, an interrupted one goes on where
it was.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from demo_report import write_report
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from anyglot.train.log import read_log

BESIDE = 0.32  # share of the budget for everything that is not training
SHARES = {  # of the rest
    "image": 0.12,
    "speech": 0.22,
    "video": 0.16,
    "motion": 0.03,
    "graph": 0.06,
    "item": 0.02,
    "lm": 0.36,
    "lm_shuffled": 0.03,
}
MEDIA = ("image", "speech", "video", "motion", "graph", "item")
TITLES = {
    **{name: f"train the {name} tokenizer" for name in (*MEDIA, "text")},
    "lm": "pretrain the language model",
    "lm_shuffled": "train a control on shuffled names",
}


@dataclass
class Step:
    """One command. name: of its log. done: a file that is there when it is finished. run: folder of its log.jsonl."""

    name: str
    title: str
    words: list[str]
    done: Path
    run: Path | None = None
    state: str = "waiting"
    seconds: float = 0.0

    @property
    def command(self) -> str:
        """What a user would type."""
        return shlex.join(["anyglot", *self.words])


def steps_of(minutes: float, out: Path) -> list[Step]:
    """The demo's steps for a budget: a smaller one trains shorter, on less data."""
    spoken = round(min(1000, max(150, 25 * minutes)))
    paired = round(min(80, max(12, 2 * minutes)))
    molecules = round(min(20000, max(600, 500 * minutes)))
    few = ["views=[the front,the left]", "colours=[red]"] if minutes < 10 else []
    asked = round(min(64, max(8, 2 * minutes)))
    elsewhere = [] if out == Path("runs/demo") else [f"vars.run={out}"]

    def train(name: str) -> Step:
        words = ["train", f"demo/{name}", *elsewhere]
        if name in SHARES:
            words.append(f"minutes={minutes * (1 - BESIDE) * SHARES[name]:.2f}")
        return Step(name, TITLES[name], words, out / name / "done.json", out / name)

    def fetch(corpus: str, folder: str, title: str, done: str, *settings: str) -> Step:
        words = ["fetch", corpus, "--out", str(out / folder), *settings]
        return Step(folder, title, words, out / folder / done, out / folder)

    tokens = ["tokenize", "demo/tokenize", *elsewhere]
    measure = ["eval", "demo/eval_tokenizers", *elsewhere, f"items={2 * asked}"]
    ask = ["eval", "demo/eval_lm", *elsewhere, f"names={asked}"]
    talk = ["eval", "demo/eval_chat", *elsewhere, f"conversations={asked}"]
    return [
        fetch("demo", "data", "fetch pictures, speech and text", "corpus.json", f"spoken={spoken}", f"paired={paired}"),
        fetch("moves", "moves", "fetch filmed movements", "moves.jsonl", "side=32", *few),
        fetch("molecules", "molecules", "fetch molecules and their names", "molecules.json", f"most={molecules}"),
        fetch("movielens", "movielens", "fetch films that people rated", "movielens.json"),
        fetch("conversations", "conversations", "write conversations about these", "conversations.json", *elsewhere),
        *(train(name) for name in MEDIA),
        train("text"),
        Step("tokens", "tokenize everything", tokens, out / "tokens" / "manifest.json", out / "tokens"),
        train("lm"),
        train("lm_shuffled"),
        Step("eval_tokenizers", "measure the tokenizers", measure, out / "eval" / "tokenizers" / "metrics.json"),
        Step("eval_lm", "generate in every direction", ask, out / "eval" / "lm" / "metrics.json", out / "eval" / "lm"),
        Step("eval_chat", "hold conversations", talk, out / "eval" / "chat" / "metrics.json", out / "eval" / "chat"),
    ]


def main() -> None:
    """Run what is not finished, showing where it is; then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=40, help="what it may take on 2 CPU cores, after downloads")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo")
    arguments = parser.parse_args()
    steps = steps_of(arguments.minutes, arguments.out)
    for step in steps:
        step.state = "reused" if step.done.exists() else "waiting"
    console = Console(stderr=True)
    with Live(refresh_per_second=4, console=console, auto_refresh=False) as live:
        for step in steps:
            if step.state == "waiting":
                run(step, steps, arguments.out, live)
    report = write_report(arguments.out, [(step.title, step.command) for step in steps], arguments.minutes)
    console.print(f"\nDone. Open [bold]{report}[/]; all figures are in {arguments.out / 'metrics.json'}.")
    console.print(f"Talk to the model in a browser: [bold]anyglot serve {arguments.out / 'lm'}[/]", highlight=False)


def run(step: Step, steps: list[Step], out: Path, live: Live) -> None:
    """Run one step's command, showing its progress; on failure say how to see why and stop."""
    log, spent = (out / "logs" / f"{step.name}{suffix}" for suffix in (".log", ".seconds"))
    log.parent.mkdir(parents=True, exist_ok=True)
    earlier = float(spent.read_text()) if spent.exists() else 0.0  # of attempts that were interrupted
    step.state, began = "running", time.monotonic() - earlier
    if not live.console.is_terminal:
        live.console.print(f"{step.title}: {step.command}", highlight=False, markup=False)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "anyglot", *step.words], stdout=file, stderr=file, env=environment
        )
        try:
            while process.poll() is None:
                step.seconds = time.monotonic() - began
                if live.console.is_terminal:
                    live.update(table(steps), refresh=True)
                time.sleep(0.25)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            spent.write_text(f"{time.monotonic() - began:.1f}\n")
            live.stop()
            sys.exit("interrupted; what was finished is kept, run the same command again to go on")
    step.seconds = time.monotonic() - began
    step.state = "failed" if process.returncode else "done"
    spent.write_text(f"{step.seconds:.1f}\n")
    if live.console.is_terminal:
        live.update(table(steps), refresh=True)
    else:
        live.console.print(f"{step.title}: {step.state} after {step.seconds:.0f} s", highlight=False)
    if process.returncode:
        live.stop()
        tail = log.read_text(errors="replace").strip().splitlines()[-12:]
        sys.exit("\n".join([*tail, f"the step failed: {step.command}", f"its whole output is in {log}"]))


def table(steps: list[Step]) -> Table:
    """What is done, what runs and how far it is, what comes next."""
    rows = Table.grid(padding=(0, 2))
    marks = {
        "waiting": "[dim]·",
        "running": "[bold yellow]▶",
        "done": "[green]✓",
        "reused": "[green]✓",
        "failed": "[red]✗",
    }
    upcoming = next((step for step in steps if step.state == "waiting"), None)
    for step in steps:
        style = {"running": "bold", "waiting": "dim"}.get(step.state, "")
        note = f"{step.seconds:.0f} s" if step.seconds else step.state if step.state == "reused" else ""
        note = "next" if step is upcoming else note
        rows.add_row(marks[step.state], f"[{style}]{step.title}[/]" if style else step.title, _bar(step), note)
    return rows


def _bar(step: Step) -> ProgressBar | str:
    lines = read_log(step.run) if step.state == "running" and step.run else []
    if not lines or not lines[-1].get("steps"):
        return ProgressBar(total=None, width=40, pulse=True) if step.state == "running" else ""
    return ProgressBar(total=lines[-1]["steps"], completed=lines[-1]["step"], width=40)


if __name__ == "__main__":
    main()
