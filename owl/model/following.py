"""Greedy text of a stream that grows: it goes on from what is settled, and takes over in one pass
what the model would say again.

`generate` begins every text anew. Here the last hypothesis is a draft: the decoder reads all of it
at once, and as far as it would have chosen the same tokens they stand, as in speculative decoding
([arXiv 2211.17192](https://arxiv.org/abs/2211.17192)). The text is what greedy decoding says.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from owl.kernels.agreement import agreed
from owl.kernels.loops import loop_ends
from owl.model.decoding import LOOK_EVERY, Decoded, suppressed, text_tokens, token_cap
from owl.model.whisper import prompt_tokens


@torch.inference_mode()
def follow(
    model,
    encoder_output: Tensor,
    settled: Sequence[int] = (),
    draft: Sequence[int] = (),
    *,
    language: str | None = None,
    max_new_tokens: int | None = None,
) -> Decoded:
    """Text tokens of one clip's encoder output (1, frames, d): the `settled` ones, then the
    likeliest at each step, whatever the `draft` behind them says.
    """
    prompt, end = prompt_tokens(model, language), model.config.eos_token_id
    cap = token_cap(model, max_new_tokens, language)
    said = list(settled)[:cap]
    draft = list(draft)[: cap - len(said)]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    never, first = suppressed(model), list(model.generation_config.begin_suppress_tokens or [])

    def choices(tokens: list[int], count: int) -> list[int]:
        """Behind each of the last `count` of the next tokens, what comes."""
        hidden = model.model.decoder(
            torch.tensor([tokens], device=encoder_output.device),
            encoder_hidden_states=encoder_output,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits = model.proj_out(hidden[0, -count:])
        logits[:, never] = -torch.inf
        if not said:
            logits[0, first] = -torch.inf
        return logits.argmax(-1).tolist()

    found = choices([*prompt, *said, *draft], len(draft) + 1)
    taken = agreed(draft, found)
    cache.crop(taken - len(draft))
    said, likeliest = said + draft[:taken], found[taken]
    while likeliest != end and len(said) < cap and not _loops(said):
        said.append(likeliest)
        (likeliest,) = choices([likeliest], 1)
    (decoded,) = text_tokens(torch.tensor([said + [end] * (likeliest == end)]), end)
    return decoded


def _loops(said: list[int]) -> bool:
    return bool(said) and len(said) % LOOK_EVERY == 0 and loop_ends(torch.tensor([said])).item() > 0
