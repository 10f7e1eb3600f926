"""The letters by which byte-level vocabularies, GPT-2's and so Whisper's, spell bytes."""

# what is printed stands for itself, the others are counted from 256 on
_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
BYTE_OF = {chr(byte): byte for byte in _SHOWN}
BYTE_OF |= {chr(256 + place): byte for place, byte in enumerate(_HIDDEN)}
