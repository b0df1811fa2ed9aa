"""Shards made on a Ray cluster instead of by processes of one machine."""

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from anyglot.data.shards import ShardInfo
from anyglot.data.sources import Job, SourceConfig, TokenizeConfig
from anyglot.errors import AnyglotError


def make_on_ray(
    work: Sequence[tuple[Job, SourceConfig, Any]], config: TokenizeConfig
) -> Iterator[tuple[int, ShardInfo]]:
    """Make shards on the workers of a cluster; yield the number of each piece of work with what its shard says.

    A worker takes one CPU (and one GPU, if `config.device` is one), loads the tokenizers once and writes its shards
    itself. Ray Data does what was on a worker that was lost again on another one.

    Args:
        work: arguments of `make_shard`. config: `ray` says which cluster; `workers` how many at most, 0 for all.
    Raises:
        AnyglotError: there is no such cluster, or work failed on it again and again.
    """
    import ray

    mine = not ray.is_initialized()
    try:
        _check_reachable(config.ray)
        ray.init(
            address=None if config.ray == "local" else config.ray,
            num_cpus=(config.workers or None) if config.ray == "local" else None,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AnyglotError(f"ray={config.ray}: no cluster there ({reason}); `ray start --head` starts one") from error
    shared, here = ray.put(list(work)), os.getcwd()

    def make(row: dict[str, Any]) -> dict[str, Any]:
        from anyglot.data.tokenize import make_shard

        os.chdir(here)  # paths may be relative to it
        number = int(row["item"])
        return {"number": number, "info": json.dumps(asdict(make_shard(*ray.get(shared)[number])))}

    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one already
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        numbers = ray.data.from_items(list(range(len(work))), override_num_blocks=len(work))
        made = numbers.map(
            make,
            num_cpus=1,
            num_gpus=0 if config.device == "cpu" else 1,
            concurrency=config.workers or None,
        )
        for row in made.iter_rows():
            yield int(row["number"]), ShardInfo(**json.loads(row["info"]))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise AnyglotError(
            f"the cluster could not make a shard ({reason}); finished shards are kept: run the command again"
        ) from error
    finally:
        if mine:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at `[ray://]host:port`, for which Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
