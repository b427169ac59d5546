"""Step `shards`: every assigned example is packed."""

from __future__ import annotations

from collections.abc import Mapping

from ...data.prepare import write_shards
from ...example import SPLITS
from ..context import Context, Step


def pack_shards(run: Context) -> Mapping[str, object]:
    """Gives ``rows`` per split and the ``sha256`` of every shard."""
    return write_shards(run.space, run.source, run.modalities, run.data.taxonomy, run.config, run.reporter.progress)


STEP = Step(
    "shards",
    pack_shards,
    settings=("fit", "image_format", "shard_size"),
    outputs=lambda run: [path for split in SPLITS for path in run.space.shards(split).glob("*")],
)
