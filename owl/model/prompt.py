"""What a Whisper's generation settings must say before it can be prompted, filled in where a
fine-tune left it out.

Fine-tunes of 2022 and 2023 often have no generation_config.json, or one without the token ids of
languages and tasks. The tokenizer knows the ids. Whether a model is multilingual it does not know
(English-only checkpoints have the language tokens too): that follows openai/whisper's rule, by
vocabulary size, where the size is one of theirs or larger, and is asked for where it is not.
"""

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS, TO_LANGUAGE_CODE

ENGLISH_ONLY_VOCABULARY = 51_864  # tokens; openai/whisper calls every larger one multilingual
FIX = "copy generation_config.json from the openai/whisper-* model that it was trained from"


def language_code(language: str) -> str:
    """ "en" of "en", "English" or "<|en|>"; what is no language is returned in lower case for the
    caller to refuse.
    """
    plain = language.strip().removeprefix("<|").removesuffix("|>").lower()
    return TO_LANGUAGE_CODE.get(plain, plain)


def complete_settings(settings, vocabulary: dict[str, int], size: int) -> None:
    """Add `no_timestamps_token_id`, `is_multilingual`, `lang_to_id`, `task_to_id` to a generation
    config, in place, where they are missing.

    `vocabulary` maps the tokenizer's tokens to ids, `size` is the model's number of tokens.
    ValueError where they do not tell.
    """
    if getattr(settings, "no_timestamps_token_id", None) is None:
        if "<|notimestamps|>" not in vocabulary:
            raise ValueError(
                "neither its generation settings nor its tokenizer name the token "
                f"<|notimestamps|>; {FIX}"
            )
        settings.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    if getattr(settings, "is_multilingual", None) is None:
        if size < ENGLISH_ONLY_VOCABULARY:
            raise ValueError(
                f"its generation settings do not say is_multilingual, and {size} tokens is no "
                f"stock vocabulary; {FIX}"
            )
        settings.is_multilingual = size > ENGLISH_ONLY_VOCABULARY
    if not settings.is_multilingual:
        return
    found = {
        "lang_to_id": {f"<|{code}|>": f"<|{code}|>" for code in LANGUAGES},
        "task_to_id": {task: f"<|{task}|>" for task in TASK_IDS},
    }
    for name, tokens in found.items():
        if getattr(settings, name, None):
            continue
        ids = {key: vocabulary[token] for key, token in tokens.items() if token in vocabulary}
        if not ids:
            raise ValueError(
                "it is multilingual, but neither its generation settings nor its tokenizer give "
                f"{name}; {FIX}"
            )
        setattr(settings, name, ids)
