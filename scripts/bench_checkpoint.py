"""How long a checkpoint holds up training, written by the step that is due and written in the background.

    python scripts/bench_checkpoint.py

One CPU process of one thread, a model of 40 million weights in fp32 at ZeRO 1, 640 MB a checkpoint. Prints for every
save: how long it held up training, how long until the checkpoint was whole, and the steps that were trained meanwhile,
which share the machine with the writer.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

LENGTH, IDS = 32, 32_000


def main() -> None:
    """Train and save, in the one way and in the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the file system to measure; a temporary one if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder), arguments.saves)


def measure(folder: Path, saves: int) -> None:
    """Print one line for each save."""
    import torch

    from anyglot.lm.model import LanguageModel, ModelConfig, build_model
    from anyglot.train.checkpoint import RunState
    from anyglot.train.checkpoint_writer import CheckpointWriter
    from anyglot.train.engine import EngineConfig, build_engine, process_group

    torch.set_num_threads(1)
    shape = ModelConfig(hidden=512, layers=8, heads=8, key_value_heads=4, max_length=LENGTH)
    buckets = {"zero_optimization": {"reduce_bucket_size": 1_000_000}}
    with process_group():
        module = LanguageModel(build_model(shape, IDS))
        engine = build_engine(module, EngineConfig(zero_stage=1, deepspeed=buckets), 1, torch.float32)
        ids, places = torch.randint(IDS, (1, LENGTH)), torch.arange(LENGTH)[None]

        def step() -> float:
            began = time.perf_counter()
            loss = engine(ids, places, torch.zeros_like(ids).int(), ids, torch.ones(1, LENGTH)).total
            engine.backward(loss / LENGTH, scale_wrt_gas=False)
            engine.step()
            return time.perf_counter() - began

        step()  # allocates
        print(f"a step alone: {statistics.median(step() for _ in range(5)):.2f} s")
        for background in (False, True):
            with CheckpointWriter(folder / str(background), 1, background, timeout_minutes=10) as writer:
                for number in range(1, saves + 1):
                    began = time.perf_counter()
                    writer.save(engine, RunState(step=number))
                    held, meanwhile = time.perf_counter() - began, []
                    while writer.pending and not writer.pending.done():
                        meanwhile.append(step())
                    writer.wait()
                    size = sum(path.stat().st_size for path in writer.directory.rglob("*.pt")) / 1e6
                    print(
                        f"{'background' if background else 'at once':10}: held up {held:.2f} s, whole after "
                        f"{time.perf_counter() - began:.2f} s, steps meanwhile "
                        f"{', '.join(f'{seconds:.2f} s' for seconds in meanwhile) or 'none'}; {size:.0f} MB on disk"
                    )


if __name__ == "__main__":
    main()
