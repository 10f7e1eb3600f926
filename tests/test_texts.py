"""Texts in many scripts: what the basic normaliser leaves of them, and whether a data set goes by
words or by characters.

Against a reference: pairs made by hand, one script each. The rest is behaviour.
"""

import pytest

from owl.kernels.scoring import score
from owl.kernels.texts import is_latin, normalize, unit_of


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("प्राचीन संस्कृतियों, और!", "प्राचीन संस्कृतियों और"),  # Devanagari
        ("আমি গান গাই।", "আমি গান গাই"),  # Bengali
        ("வணக்கம், உலகம்!", "வணக்கம் உலகம்"),  # Tamil
        ("నమస్కారం. ఎలా", "నమస్కారం ఎలా"),  # Telugu
        ("നമസ്കാരം!", "നമസ്കാരം"),  # Malayalam
        ("ਸਤ ਸ੍ਰੀ ਅਕਾਲ।", "ਸਤ ਸ੍ਰੀ ਅਕਾਲ"),  # Gurmukhi
        ("ශ්\u200dරී ලංකා.", "ශ්රී ලංකා"),  # Sinhala, with a joiner that nobody sees
        ("كِتَابٌ، (ضحك) كَبِيرٌ؟", "كِتَابٌ كَبِيرٌ"),  # Arabic
        ("\u200fمی\u200cخواهم!", "میخواهم"),  # Persian
        ("סֵפֶר?", "סֵפֶר"),  # Hebrew
        ("ที่นี่ดี!", "ที่นี่ดี"),  # Thai
        ("ສະບາຍດີ.", "ສະບາຍດີ"),  # Lao
        ("မင်္ဂလာပါ။", "မင်္ဂလာပါ"),  # Burmese
        ("សួស្តី\u200bបង។", "សួស្តី បង"),  # Khmer, its words apart by a space without width
        ("ｶﾞﾗｽ、です。", "ガラス です"),  # Japanese, half width
        ("カ\u3099ラス", "ガラス"),  # Japanese, its voicing mark apart
        ("E\u0323\u0300ko\u0323\u0301!", "\u1eb9\u0300k\u1ecd\u0301"),  # Yoruba
        ("Tie\u0302\u0301ng Vie\u0323\u0302t", "tiếng việt"),  # Vietnamese, decomposed
        ("İYİ günler", "iyi günler"),  # Turkish
        ("Ὀδυσσεύς, ἄνδρα", "ὀδυσσεύς ἄνδρα"),  # Greek
        ("Ёлка — и\u0306од", "ёлка йод"),  # Cyrillic
        ("\u2764\ufe0f yes 1\ufe0f\u20e3 co\u00adop", "yes 1 coop"),  # marks of symbols go
    ],
)
def test_marks_that_are_letters_stay_in_every_script(written, compared):
    assert normalize([written], "basic") == [compared]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "wer"),
    [
        ("प्राचीन संस्कृतियों और जनजातियों", "प्राचीन संस्कृतियां और जनजातियों", 1 / 4),
        ("السَّلَامُ عَلَيْكُمْ", "السَّلَامِ عَلَيْكُمْ", 1 / 2),
        ("வணக்கம் உலகம்", "வணக்கம் உலகிம்", 1 / 2),
    ],
)
def test_a_wrong_vowel_sign_is_one_wrong_word(reference, hypothesis, wer):
    assert score([reference], [hypothesis], "basic").wer == wer


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很好",  # zh
        "我哋去公園啦",  # yue
        "きょうは天気がいい",  # ja
        "วันนี้อากาศดี",  # th
        "ມື້ນີ້ອາກາດດີ",  # lo
        "ဒီနေ့ ရာသီဥတု ကောင်းတယ်",  # my
        "ថ្ងៃនេះអាកាសធាតុល្អ",  # km
        "我用 iPhone 手机",
        "今 天 天 气 很 好",
    ],
)
def test_scripts_without_spaces_go_by_characters(text):
    assert unit_of([text, "OK"]) == "characters"
    assert unit_of([text], ["wer"]) == "words"
    assert unit_of([text], ["character_error_rate", "wer"]) == "characters"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the weather is fine in 北京",
        "오늘 날씨가 좋다",
        "आज मौसम अच्छा है",
        "الطقس جميل",
        "1 2 3",
    ],
)
def test_scripts_with_spaces_go_by_words_unless_the_config_says_otherwise(text):
    assert unit_of([text]) == unit_of([text], ["wer", "character_error_rate"]) == "words"
    assert unit_of([text], ["character_error_rate"]) == "characters"


def test_no_text_at_all_goes_by_words():
    assert unit_of([]) == "words"


@pytest.mark.parametrize(
    ("references", "latin"),
    [
        (["hello", "42"], True),
        ([""], True),
        (["नमस्ते दुनिया"], False),
        (["வணக்கம்", "ok"], False),
        (["the word Ёлка means a tree"], True),
    ],
)
def test_texts_are_latin_by_most_of_their_letters(references, latin):
    assert is_latin(references) == latin
