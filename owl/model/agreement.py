"""Do the parts of a loaded Whisper agree: weights, config, generation config, tokenizer and feature
extractor? Asked once, at load.

People copy these files from different models, and nothing downstream notices: a tokenizer of
another generation gives fluent nonsense, an adapter beside its base weights is dropped without a
word. large-v3 has one language more than its elders, so every id behind the languages is one
higher. What is fine: rows of the embedding that no token uses, words that a fine-tune added, a
tied output layer stored twice.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers.models.whisper.tokenization_whisper import LANGUAGES

from owl.errors import ModelError
from owl.model import folders
from owl.model.generation import END, NO_TIMESTAMPS, START

MOST = 4  # problems told at once: one shifted id shifts a hundred
SAMPLING_RATE = 16_000  # samples a second, of every Whisper
# rows of the embedding → id of <|notimestamps|>: English-only, multilingual. large-v3 is told by
# its mel bins: there are elders whose embedding was padded to as many rows
GENERATIONS, LARGE_V3, LARGE_V3_BINS = {51_864: 50_362, 51_865: 50_363}, 50_364, 128
CONFIG, GENERATION = "config.json", "generation_config.json"
# prefixes that wrappers leave on the names of tensors
WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
PROJECTION, EMBEDDING = "proj_out.weight", "model.decoder.embed_tokens.weight"


def check(
    name: str, model, processor, vocabulary: Mapping[str, int], info: Mapping | None = None
) -> None:
    """ModelError with every disagreement: the file, the two values, the fix. `vocabulary` is the
    tokenizer's, `info` what transformers says of loading the weights; the model's generation config
    is as it was saved.
    """
    files = folders.processor_files(Path(name))
    if not processor.tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False):
        raise ModelError(
            f"the model '{name}': its tokenizer is empty ({len(vocabulary)} tokens, all of them "
            "added ones); copy tokenizer.json from the model that it was trained from"
        )
    problems = [
        *(_tensors(model, info) if info is not None else ()),
        *_tokens(model.config, model.generation_config, vocabulary, files["tokenizer"]),
        *_audio(model.config, processor.feature_extractor, files["feature_extractor"]),
    ]
    if problems:
        told = "\n".join(f"the model '{name}': {problem}" for problem in problems[:MOST])
        more = len(problems) - MOST
        raise ModelError(told + (f"\nand {more} more of these" if more > 0 else ""))


def _tensors(model, info: Mapping) -> Iterator[str]:
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if adapters := [key for key in unknown if "lora_" in key]:
        yield (
            f"its weights hold {len(adapters)} LoRA matrices beside the base weights, such as "
            f"{adapters[0]}; merge them (PeftModel.merge_and_unload) and save again"
        )
    elif unknown:
        wrapper = next((one for one in WRAPPERS if unknown[0].startswith(one)), None)
        yield (
            f"its weights hold {len(unknown)} tensors that a Whisper does not have, such as "
            f"{unknown[0]}; "
            + (
                f"take '{wrapper}' off their names: save the model inside the wrapper"
                if wrapper
                else "save the plain WhisperForConditionalGeneration"
            )
        )
    if missing:
        yield (
            f"the checkpoint is incomplete: {len(missing)} tensors are missing, such as "
            f"{', '.join(missing[:3])}; copy it again, or save the whole "
            "WhisperForConditionalGeneration"
        )
    for key, stored, wanted in sorted(info["mismatched_keys"])[:1]:
        yield (
            f"{key} has the shape {tuple(stored)}, and {CONFIG} asks for {tuple(wanted)} "
            f"({len(info['mismatched_keys'])} such tensors); take the {CONFIG} that was saved with "
            "the weights"
        )
    tied = model.proj_out.weight is model.model.decoder.embed_tokens.weight
    if model.config.tie_word_embeddings and not tied and not missing:
        yield (
            f"{PROJECTION} and {EMBEDDING} differ, but {CONFIG} says that they are one "
            "(tie_word_embeddings); save the model with one of them"
        )


def _tokens(config, settings, vocabulary: Mapping[str, int], file: str) -> Iterator[str]:
    last = max(vocabulary, key=vocabulary.get)
    if vocabulary[last] >= config.vocab_size:
        yield (
            f"{file} knows {vocabulary[last] + 1} tokens, the last '{last}', and {CONFIG} "
            f"says vocab_size {config.vocab_size}; take the tokenizer of the model that it was "
            "trained from, or resize_token_embeddings(len(tokenizer)) and train the new rows"
        )
    elif NO_TIMESTAMPS in vocabulary:
        yield from _generation(config, vocabulary, file)
    wrong: dict[tuple[str, str], list[str]] = {}  # a shifted table is one cause
    for place, key, value, token in _ids(config, settings):
        found = vocabulary.get(token)
        if value is not None and found not in (value if isinstance(value, list) else [value]):
            says = "does not know it" if found is None else f"says {found}"
            wrong.setdefault((place, key.partition("[")[0]), []).append(
                f"{place} says {key} {value}, which should be {token}, and {file} {says}; take "
                "both from the model that it was trained from"
            )
    for first, *others in wrong.values():
        yield first + (f" ({len(others)} more of its entries differ too)" if others else "")
    for token in (START, END, NO_TIMESTAMPS):
        if token not in vocabulary:
            yield f"{file} does not know {token}; copy it from the model it was trained from"


def _generation(config, vocabulary: Mapping[str, int], file: str) -> Iterator[str]:
    found = vocabulary[NO_TIMESTAMPS]
    usual, like = GENERATIONS.get(config.vocab_size), f"vocab_size {config.vocab_size}"
    if config.num_mel_bins == LARGE_V3_BINS and found in GENERATIONS.values():
        usual, like = LARGE_V3, f"num_mel_bins {LARGE_V3_BINS}"
    elif max(vocabulary.values()) + 1 == config.vocab_size and not any(
        vocabulary.get(f"<|{code}|>", 0) > found for code in LANGUAGES
    ):
        return  # it fills the embedding with words of its own
    if found != (usual or found):
        yield (
            f"{file} is of another generation: {NO_TIMESTAMPS} is {found}, and in OpenAI's models "
            f"with {like} it is {usual}; take the tokenizer of the model that it was trained from"
        )


def _ids(config, settings) -> Iterator[tuple[str, str, object, str]]:
    """(file, key, the id that it says, the token that it stands for)."""
    yield CONFIG, "decoder_start_token_id", config.decoder_start_token_id, START
    yield CONFIG, "eos_token_id", config.eos_token_id, END
    if settings._from_model_config:  # there is no generation_config.json
        return
    yield GENERATION, "decoder_start_token_id", settings.decoder_start_token_id, START
    yield GENERATION, "eos_token_id", settings.eos_token_id, END
    last = getattr(settings, "no_timestamps_token_id", None)
    yield GENERATION, "no_timestamps_token_id", last, NO_TIMESTAMPS
    if getattr(settings, "is_multilingual", True):
        for token, one in (getattr(settings, "lang_to_id", None) or {}).items():
            yield GENERATION, f"lang_to_id['{token}']", one, token
        for task, one in (getattr(settings, "task_to_id", None) or {}).items():
            yield GENERATION, f"task_to_id['{task}']", one, f"<|{task}|>"


def _audio(config, extractor, file: str) -> Iterator[str]:
    frames = 2 * config.max_source_positions
    for said, value, asked, wanted in (
        ("feature_size", extractor.feature_size, f"{CONFIG} num_mel_bins", config.num_mel_bins),
        ("a window of mel frames", extractor.nb_max_frames, f"{CONFIG} (positions × 2)", frames),
        ("sampling_rate", extractor.sampling_rate, "every Whisper", SAMPLING_RATE),
    ):
        if value != wanted:
            yield (
                f"{file} says {said} {value}, and {asked} says {wanted}; take {file} from the "
                "model that it was trained from"
            )
