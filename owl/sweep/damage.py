"""Where the damage is: prune one part of the dense model at a time, every other part left as it is,
and measure how far the predictions move.

Parts are the kinds of linear (encoder and decoder × self-attention, cross-attention, feed-forward)
over all blocks, and single blocks with all their linears. Each is pruned as a point's model is,
each block on the inputs that the pruned ones before it make. While nothing before a block is
pruned, its inputs are the dense model's: one walk serves all blocks, and each side's kinds begin
where it came to.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from owl.evaluate.compare import kl_summary
from owl.evaluate.divergence import predictor
from owl.model.decoding import States, encode, input_features
from owl.model.whisper import Block, Whisper, weight_counts
from owl.prune import pipeline, search, weights
from owl.prune.calibration import Batch
from owl.prune.calibration_text import calibration_batches
from owl.prune.weights import PrunedLinear
from owl.run import provenance
from owl.run.record import peak_rss_bytes
from owl.sweep.grid import Job
from owl.sweep.point import Heard, Ready, keep

NAMES = {
    "self_attn": "self-attention",
    "encoder_attn": "cross-attention",
    "feed_forward": "feed-forward",
}


def measure(job: Job, shared: Ready, sparsity: float) -> dict:
    """Prune and measure every part at one sparsity, and keep it, whole or not at all."""
    started, config, dense = time.perf_counter(), job.config_at(sparsity), shared.dense
    plan = pipeline.plan(config, dense, shared.every, shared.labels, shared.guide)
    settings = {
        "method": config.pruning.method,
        "pattern": plan.patterns,
        "bias_refit": config.pruning.bias_refit,
    }
    learned, _ = shared.labels.hold_out()
    asr = dense._replace(model=copy.deepcopy(dense.model))
    every, _ = pipeline.targets(config, asr.model)
    batches = calibration_batches(config, asr, learned)
    prune = lambda blocks, states: weights.prune_blocks(
        asr.model, blocks, states, plan.sparsities, **settings
    )
    prunable, _ = weight_counts(dense.model, shared.every)
    encoded, ratios = (
        _encoded(dense, shared.heard),
        dict(zip([block.name for block in shared.guide.blocks], shared.guide.outlier_ratios)),
    )
    parts = []
    for name, rows in each(every, batches, prune):
        count, removed = sum(row.weights for row in rows), pipeline.removed_weights(rows)
        states = encoded if name.startswith("decoder") else None
        parts.append(
            {
                "part": name,
                "of": "block" if name in ratios else "kind",
                "weights": count,
                "share": count / prunable,
                "removed": removed,
                **_divergence(asr, shared.heard, states),
                "outlier_ratio": ratios.get(name),
            }
        )
    result = {
        **{key: getattr(job, key) for key in ("model", "method", "seed")},
        "sparsity": sparsity,
        "seconds": time.perf_counter() - started,
        "peak_rss_bytes": peak_rss_bytes(),
        "parts": sorted(parts, key=lambda part: part["of"] == "block"),
        "key": job.key_at(sparsity),
        "provenance": provenance.collect(config),
    }
    keep(job.path(sparsity), result)
    return result


def each(
    every: Sequence[Block],
    batches: Sequence[Batch],
    prune: Callable[[Sequence[Block], Sequence[Batch]], Iterator[tuple[Block, list[PrunedLinear]]]],
) -> Iterator[tuple[str, list[PrunedLinear]]]:
    """(name, what was pruned) of every part, while the model has that part pruned and no other; it
    is dense again afterwards. `prune`: pruning of some blocks one by one; `batches` are consumed.
    """
    dense = {block.name: copy.deepcopy(block.module.state_dict()) for block in every}
    for block, rows in prune(every, batches):
        if rows:
            yield block.name, rows
        block.module.load_state_dict(dense[block.name])
        if block.name.endswith(".0"):  # the batches are still what goes into this side
            side = [one for one in every if one.in_decoder == block.in_decoder]
            for name, blocks in kinds(side).items():
                states = [replace(batch) for batch in batches]
                yield name, [row for _, found in prune(blocks, states) for row in found]
                for one in side:
                    one.module.load_state_dict(dense[one.name])


def kinds(side: Sequence[Block]) -> dict[str, list[Block]]:
    """For each kind of linear, "decoder cross-attention", the blocks with no other linears."""
    linears: dict[str, set[str]] = {}
    for unit in search.units(side):
        name = f"{unit.block.partition('.')[0]} {NAMES[unit.name.rpartition('.')[2]]}"
        linears.setdefault(name, set()).update(linear.name for linear in unit.linears)
    return {
        name: [
            replace(block, linears=tuple(one for one in block.linears if one.name in chosen))
            for block in side
        ]
        for name, chosen in linears.items()
    }


def _encoded(dense: Whisper, heard: Sequence[Heard]) -> States:
    """What the dense encoder makes of the clips, which pruning in the decoder does not change."""
    states = States()
    for batch in (batch for one in heard for batch in one.teacher.batches):
        audio = [clip.audio for clip in batch.clips]
        states.keep(audio, encode(dense.model, input_features(dense, audio)))
    return states


def _divergence(asr: Whisper, heard: Sequence[Heard], states: States | None) -> dict:
    """From the dense model, over the clips of all datasets: kl (nats per token), low, high."""
    rows = [row for one in heard for row in one.teacher.divergence(predictor(asr, states))]
    found = kl_summary(rows)
    return {key: found[key] for key in ("kl", "low", "high")}
