"""The only room that knows Whisper's layout: blocks, linears, tied weights, prompt; loading and
decoding.
"""
