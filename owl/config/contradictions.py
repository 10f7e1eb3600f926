"""Which values of `pruning` cannot work together, in the words of the config file and make line."""

from collections.abc import Iterator
from math import isclose

from owl.kernels.patterns import SMALLER, fixed_sparsity

UNIFORM = 'set allocation to "uniform" (ALLOCATION=uniform) or the pattern to "unstructured"'
OWL = 'set allocation to "owl" (ALLOCATION=owl) or the pattern to "unstructured"'


def contradictions(pruning) -> Iterator[str]:
    """Cause and fix of what is wrong with an `owl.config.schema.Pruning` whose single values are
    fine; of several, the first may be the cause of the others.
    """
    method, allocation, pattern = pruning.method, pruning.allocation, pruning.pattern
    schedule, recovery = pruning.schedule, pruning.recovery.method
    structures, share = pruning.structured.structures, fixed_sparsity(pattern)
    written, turns = f"pruning_pattern {pattern}", f'pruning_schedule "{schedule.name}"'
    if pruning.calibration.dataset.max_samples is not None:
        yield (
            "calibration.dataset.max_samples has no meaning for calibration; set "
            "pruning.calibration.samples instead"
        )
    if allocation == "median" and method != "magnitude":
        yield (
            f'outlier_detection_method "median" goes with method magnitude only, not {method}; set '
            'method to "magnitude" (METHOD=magnitude) or the allocation to "owl" (ALLOCATION=owl)'
        )
    if share is not None and allocation != "uniform":
        yield (
            f"{written} gives every block the same sparsity, so the allocation cannot be "
            f"{allocation}; {UNIFORM}"
        )
    if pruning.group_size and allocation in ("measured", "median", "fisher"):
        yield f"{written} takes one N per block, {allocation} decides below blocks; {OWL}"
    if share is not None and not isclose(pruning.sparsity, share, abs_tol=1e-6):
        yield (
            f"{written} means sparsity {share:.6g}, not {pruning.sparsity:g}; leave out sparsity "
            "(SPARSITY=) or the pattern (PATTERN=unstructured)"
        )
    if schedule.name == "one_shot" and (schedule.iterations, schedule.frequency) != (1, 1):
        yield (
            "pruning_iterations and pruning_frequency other than 1 mean several rounds of pruning; "
            'set pruning_schedule to "linear", "exponential" or "cubic", or both to 1'
        )
    if schedule.name != "one_shot":
        needs = f"{turns} prunes and recovers in turn and needs"
        if recovery == "none":
            yield (
                f'{needs} a recovery: set recovery to "blockwise", "norms" or "distill" '
                '(RECOVERY=distill), or use "one_shot"'
            )
        if schedule.iterations == 1:
            yield f'{needs} rounds: set pruning_iterations to at least 2, or use "one_shot"'
        if pattern != "unstructured":
            yield (
                f"{written} has no sparsities in between, as {turns} wants; use the schedule "
                '"one_shot" or the pattern "unstructured"'
            )
    if pattern not in SMALLER:
        return
    if method != "sparsegpt":
        yield (
            f"{written} decides by the second-order error, as sparsegpt does, not by {method}; "
            'leave out method or set it to "sparsegpt" (METHOD=sparsegpt)'
        )
    if allocation in ("measured", "fisher"):
        yield (
            f"allocation {allocation} judges single weights, not heads, neurons or ranks; {UNIFORM}"
        )
    if pattern != "structured":
        return
    if "layers" in structures and (len(structures) > 1 or allocation != "uniform"):
        yield (
            'structures ["layers"] drops whole layers by their influence: it goes with no other '
            'structure and no other allocation than "uniform" (ALLOCATION=uniform)'
        )
    if "layers" in structures and recovery != "none":
        yield (
            'recovery compares block with block, and structures ["layers"] leaves fewer of them; '
            'set recovery to "none" (RECOVERY=none) or structures to ["heads", "neurons"]'
        )
    if pruning.structured.equal_widths and "heads" in structures:
        yield (
            "equal_widths is for runtimes that cannot load fewer heads; set structures to "
            '["neurons"] or equal_widths to false'
        )
