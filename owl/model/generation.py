"""A Whisper's generation settings, built whole from what its checkpoint says of tokens, language
and task, wherever it says it.

Nothing that a checkpoint saved about *decoding* is taken over: every model is decoded greedily in
the same way (`owl.model.decoding`), by every runtime, and an export carries these settings and no
others. Fine-tunes of 2022 and 2023 often have no generation_config.json, or one without the ids of
languages and tasks: the tokenizer knows these. Whether a model is multilingual it does not know
(English-only checkpoints have the language tokens too): that follows from where OpenAI's two
vocabularies end, and is asked for where a vocabulary is neither.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers import GenerationConfig
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS, TO_LANGUAGE_CODE
from transformers.utils import cached_file

START, END, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
# the id of <|endoftext|> in OpenAI's vocabularies → is it the multilingual one?
MULTILINGUAL = {50_256: False, 50_257: True}
# facts about a checkpoint that greedy text does not depend on: word times and long audio do
KEPT = ("alignment_heads", "max_initial_timestamp_index", "prev_sot_token_id")
FIX = "copy generation_config.json from the openai/whisper-* model that it was trained from"
TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")
# languages as their speakers call them
NATIVE = dict(
    deutsch="de", français="fr", español="es", italiano="it", português="pt", nederlands="nl",
    polski="pl", svenska="sv", türkçe="tr", русский="ru", українська="uk", العربية="ar",
    中文="zh", 日本語="ja", 한국어="ko",
) | {"हिन्दी": "hi"}  # fmt: skip
FILE, BLANK = "generation_config.json", "Ġ"
# what is read of the file, and how it is written there
FORMS = {
    "language": '"de"',
    "task": '"transcribe"',
    "is_multilingual": "true",
    "lang_to_id": '{"<|de|>": 50261}',
    "task_to_id": '{"transcribe": 50359}',
    "forced_decoder_ids": "[[1, 50261], [2, 50359]]",
    "suppress_tokens": "[1, 2]",
    "begin_suppress_tokens": "[220, 50257]",
    "decoder_start_token_id": "50258",
    "eos_token_id": "50257",
    "no_timestamps_token_id": "50363",
}


def saved_settings(name: str, cache_dir: str | None = None) -> GenerationConfig | None:
    """What the generation_config.json of a folder or Hub id says of what is used here; None where
    there is none. ValueError for a broken one.

    transformers drops what it does not know of a file that transformers 4.26 and later made from
    the config (`_from_model_config`): languages and tasks.
    """
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo")}
    file = cached_file(
        name, FILE, cache_dir=cache_dir, _raise_exceptions_for_connection_errors=False, **quiet
    )
    if file is None:
        return None
    copy = f"correct or remove it, or {FIX}"
    try:
        said = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{FILE} is not JSON ({error}); {copy}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{FILE} holds no JSON object; {copy}")
    used = {key: said[key] for key in (*FORMS, *KEPT) if said.get(key) is not None}
    for key, value in used.items():
        if key in FORMS and not _has_form(key, value):
            raise ValueError(f"{FILE} says {key} {value!r}; write it as {FORMS[key]}")
    return GenerationConfig.from_dict(used)


def _has_form(key: str, value: object) -> bool:
    """Is the value of the type that its example in FORMS has?"""
    if key == "forced_decoder_ids":
        return _are_pairs(value)
    if isinstance(value, list):
        return key in ("suppress_tokens", "begin_suppress_tokens", "eos_token_id") and all(
            type(one) is int for one in value
        )
    return type(value) is type(json.loads(FORMS[key])) and (
        not isinstance(value, dict) or all(type(one) is int for one in value.values())
    )


def _are_pairs(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list | tuple)
        and len(one) == 2
        and type(one[0]) is int
        and type(one[1]) in (int, type(None))
        for one in value
    )


def language_code(language: str) -> str:
    """ "en" of "en", "English" or "<|en|>"; what is no language is returned in lower case for the
    caller to refuse.
    """
    plain = language.strip().removeprefix("<|").removesuffix("|>").lower()
    return TO_LANGUAGE_CODE.get(plain, plain)


def meant(language: str) -> str:
    """ ": write 'zh'" of "zh-CN", ": write 'de'" of "Deutsch"; nothing where it is not known what
    is meant.
    """
    plain = language_code(language)
    code = NATIVE.get(plain, re.split("[-_]", plain)[0])
    return f": write '{code}'" if code in LANGUAGES else ""


def whole_settings(saved, config, tokenizer, vocabulary: Mapping[str, int]) -> GenerationConfig:
    """The settings that all runtimes share, from the checkpoint's own generation config (`saved`),
    its config and its tokenizer, whose tokens are `vocabulary`.

    `added_token_ids` are words behind the timestamps, set where a fine-tune has them. ValueError
    where the three do not tell what is needed, or tell of a language that the model cannot have.
    """
    start, end, last = (vocabulary[token] for token in (START, END, NO_TIMESTAMPS))
    settings = {name: getattr(saved, name) for name in KEPT if getattr(saved, name, None)}
    multilingual = _is_multilingual(saved, end)
    if multilingual:
        ids = _ids(saved, vocabulary)
        settings |= ids | _language_and_task(saved, config, tokenizer, last, ids)
    else:
        _refuse_languages(saved, tokenizer)
    behind = {token: one for token, one in vocabulary.items() if one > last}
    if words := sorted(one for token, one in behind.items() if not TIMESTAMP.fullmatch(token)):
        settings["added_token_ids"] = words
    never = list(saved.suppress_tokens or [])
    # a list with the end token in it, or with special tokens but not the start, is another
    # vocabulary's: it would silence words, or never let the text end
    foreign = end in never or (start not in never and any(end < one <= last for one in never))
    # never first: a blank, and the end; a list without this end is another vocabulary's, such as
    # the English-only one that a WhisperConfig has by default
    first = list(saved.begin_suppress_tokens or [])
    if first and end not in first:
        first = [vocabulary[BLANK], end] if BLANK in vocabulary else [end]
    return GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        is_multilingual=multilingual,
        no_timestamps_token_id=last,
        return_timestamps=False,
        max_length=config.max_target_positions,
        suppress_tokens=_within(config, [] if foreign else never),
        begin_suppress_tokens=_within(config, first),
        **settings,
    )


def _is_multilingual(saved, end: int) -> bool:
    said, stock = getattr(saved, "is_multilingual", None), MULTILINGUAL.get(end)
    if said is not None and stock is not None and said != stock:
        raise ValueError(
            f"{FILE} says is_multilingual {json.dumps(said)}, and its tokenizer's {END} is {end}, "
            f"as in OpenAI's {'multilingual' if stock else 'English-only'} models; {FIX}"
        )
    if said is None and stock is None and not getattr(saved, "lang_to_id", None):
        raise ValueError(
            "its generation settings do not say is_multilingual, and its tokenizer's vocabulary is "
            f"none of OpenAI's ({END} is {end}, not 50256 or 50257); {FIX}"
        )
    return next((one for one in (said, stock) if one is not None), True)


def _ids(saved, vocabulary: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Token ids of languages and tasks: the checkpoint's own, else what the tokenizer names."""
    names = {
        "lang_to_id": {f"<|{code}|>": f"<|{code}|>" for code in LANGUAGES},
        "task_to_id": {task: f"<|{task}|>" for task in TASK_IDS},
    }
    ids = {
        name: getattr(saved, name, None)
        or {key: vocabulary[token] for key, token in tokens.items() if token in vocabulary}
        for name, tokens in names.items()
    }
    for name, found in ids.items():
        if not found:
            raise ValueError(
                "it is multilingual, but neither its generation settings nor its tokenizer give "
                f"{name}; {FIX}"
            )
    return ids


def _language_and_task(saved, config, tokenizer, last: int, ids: Mapping) -> dict[str, str]:
    """{"language", "task"} as far as the checkpoint says them. The first place that names a
    language counts: the generation config's own keys, its forced tokens, the tokenizer, the
    config's forced tokens; at last the only language that there is.
    """
    languages = ids["lang_to_id"]
    forced = getattr(saved, "forced_decoder_ids", None)
    # a generation config that forces a task and leaves the language open means what it says
    older = None if forced else getattr(config, "forced_decoder_ids", None)
    places = {
        "language and task in generation_config.json": lambda: (
            getattr(saved, "language", None),
            getattr(saved, "task", None),
        ),
        "forced_decoder_ids in generation_config.json": lambda: _forced(forced, last, ids),
        "language and task in tokenizer_config.json": lambda: (tokenizer.language, tokenizer.task),
        "forced_decoder_ids in config.json": lambda: _older(older, last, ids),
    }
    found = {}
    for place, read in places.items():
        language, task = read()
        if task and "task" not in found:
            found["task"] = _known(task, ids["task_to_id"], place)
        if language:
            code = language_code(language)
            _known(f"<|{code}|>", languages, place, meant(language))
            return found | {"language": code}
    if len(languages) == 1:
        found["language"] = language_code(*languages)
    return found


def _known(name: str, ids: Mapping[str, int], place: str, hint: str = "") -> str:
    if name in ids:
        return name
    raise ValueError(
        f"{place}: '{name}' is none of the model's, which are {', '.join(sorted(ids)[:8])}"
        f"{' …' if len(ids) > 8 else ''}; correct it there{hint}"
    )


def _forced(pairs: Iterable | None, last: int, ids: Mapping) -> tuple[str | None, str | None]:
    """(language token, task) of the older way to say them: [[1, 50261], [2, 50359], [3, 50363]];
    `last` is <|notimestamps|>.
    """
    languages, tasks = ({one: key for key, one in ids[name].items()} for name in ids)
    forced = [one for _, one in pairs or [] if one not in (None, last)]
    if unknown := [one for one in forced if one not in languages and one not in tasks]:
        raise ValueError(
            f"its forced_decoder_ids hold {unknown}, which is neither a language nor a task of its "
            "tokenizer: they are of another generation of Whisper; take forced_decoder_ids out of "
            f"{FILE}, and set language there"
        )
    said = [languages.get(one) for one in forced], [tasks.get(one) for one in forced]
    return tuple(next(filter(None, names), None) for names in said)


def _older(pairs: object, last: int, ids: Mapping) -> tuple[str | None, str | None]:
    """`_forced` of config.json, which nothing reads any more: a list that makes no sense is left
    over, and so is a task without a language.
    """
    allowed = {1: ids["lang_to_id"].values(), 2: ids["task_to_id"].values(), 3: [last]}
    if not _are_pairs(pairs) or any(
        one is not None and one not in allowed.get(position, ()) for position, one in pairs
    ):
        return None, None
    language, task = _forced(pairs, last, ids)
    return (language, task) if language else (None, None)


def _refuse_languages(saved, tokenizer) -> None:
    places = {
        "generation_config.json": getattr(saved, "language", None),
        "tokenizer_config.json": tokenizer.language,
    }
    for place, language in places.items():
        if language and language_code(language) != "en":
            raise ValueError(
                f"{place} says the language '{language}', but the model is English-only "
                f"(is_multilingual is false); take the language out of {place}, or {FIX}"
            )


def _within(config, ids: list[int]) -> list[int] | None:
    """The list if all of it lies in the vocabulary; one that does not is another vocabulary's."""
    return ids if ids and all(0 <= one < config.vocab_size for one in ids) else None
