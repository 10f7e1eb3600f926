"""The demo's Whisper before training: a small byte-level BPE tokenizer, a processor and a randomly
initialised model.

A genuine `WhisperForConditionalGeneration` with the stock 30 s window (3000 mel frames, 1500
encoder frames): 4 + 4 blocks, d = 128, 4 heads, English only, prompt
`<|startoftranscript|><|notimestamps|>`. Special tokens stand in OpenAI's order, timestamps after
them.
"""

import json

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

SPECIAL = [
    f"<|{name}|>"
    for name in [
        "endoftext",
        "startoftranscript",
        "en",
        "translate",
        "transcribe",
        "startoflm",
        "startofprev",
        "nospeech",
        "notimestamps",
    ]
]
TIMESTAMPS = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]  # seconds
TEXT_TOKENS = 600
MAX_TARGET_POSITIONS = 96  # prompt + text tokens + end


def make_processor(texts: list[str]) -> WhisperProcessor:
    """A Whisper processor whose byte-level BPE (`TEXT_TOKENS` entries) is learnt from `texts`."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=TEXT_TOKENS, initial_alphabet=alphabet, show_progress=False),
    )
    bpe = json.loads(learner.to_str())["model"]
    end = SPECIAL[0]
    tokenizer = WhisperTokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        unk_token=end,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        extra_special_tokens=SPECIAL,
    )
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in TIMESTAMPS]
    )
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer)


def make_model(processor: WhisperProcessor, seed: int) -> WhisperForConditionalGeneration:
    """The untrained model that fits `processor`; the same seed, the same weights."""
    end, start, *_, no_timestamps = processor.tokenizer.convert_tokens_to_ids(SPECIAL)
    special = {
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": start,
    }
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(processor.tokenizer),
            d_model=128,
            encoder_layers=4,
            decoder_layers=4,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            max_target_positions=MAX_TARGET_POSITIONS,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            **special,
        )
    )
    never_text = processor.tokenizer.convert_tokens_to_ids(SPECIAL[1:])
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        return_timestamps=False,
        no_timestamps_token_id=no_timestamps,
        suppress_tokens=never_text,
        begin_suppress_tokens=[end],
        max_length=MAX_TARGET_POSITIONS,
        **special,
    )
    return model
